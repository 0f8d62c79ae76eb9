"""Rows of a cohort's tables that were left out: the limit on their share, and their listing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from mammo_sae.cohorts.sheet import LeftOut, Sheet
from mammo_sae.errors import InputError

SHOWN = 10


def check_share(sheets: Sequence[Sheet], most: float) -> None:
    """Refuse tables with too many malformed rows, in one error for all tables.

    A single row is never too many, unless `most` is 0. The same rule holds for images
    (`images.triage.most_refused`).

    Parameters
    ----------
    sheets
        The tables, after reading.
    most
        Largest share of a table's rows that may be malformed.

    Raises
    ------
    InputError
        If a table has too many malformed rows. The error names the faults of each such table, the
        most frequent first, with the first row of each fault.
    """
    wrong = []
    for sheet in sheets:
        found = sorted(sheet.left_out.values(), key=lambda one: (one.line, one.column))
        lines = {one.line for one in found}
        all_bad = bool(sheet.rows) and len(lines) == sheet.rows and not sheet.good.any()
        if not lines or (not all_bad and len(lines) <= allowed(sheet.rows, most)):
            continue
        # A fault may be in every row of a column, so each fault is named only once.
        faults = Counter((one.column, one.why) for one in found)
        first = {(one.column, one.why): one for one in reversed(found)}
        clauses = [
            f"{first[fault]} (rows with it: {count})" if count > 1 else str(first[fault])
            for fault, count in faults.most_common(SHOWN)
        ]
        more = f"; and {len(faults) - SHOWN} other faults" if len(faults) > SHOWN else ""
        wrong.append(
            f"{'; '.join(clauses)}{more}; in all {len(lines)} of {sheet.rows} rows of {sheet.name}"
        )
    if wrong:
        raise InputError(
            f"{'; '.join(wrong)}, more than cohort.most_malformed = {most:g} allows; correct the "
            "rows, or raise this limit"
        )


def allowed(total: int, most: float) -> float:
    """Return how many of `total` rows may be left out: the share `most`, but at least one row.

    If `most` is 0, no row may be left out.
    """
    return max(most * total, 1 if most else 0)


def report(rows: Sequence[LeftOut]) -> None:
    """Print to standard error the first rows that were left out, and the number of the others."""
    for row in rows[:SHOWN]:
        print(f"malformed: {row}", file=sys.stderr)
    if len(rows) > SHOWN:
        print(
            f"malformed: {len(rows) - SHOWN} other rows; the quarantine table lists them",
            file=sys.stderr,
        )
