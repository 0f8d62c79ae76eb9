"""Notices about covariates with misleading cells: numbers that mean "unknown", and dates."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

SENTINELS = (-999, -99, -9, -1, 99, 999, 9999)
"""Numbers that mean "unknown" in many tables."""
APART = 0.1  # Other numbers must be below a positive sentinel by at least this share of it.
DATE = r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})(?:[ T].*)?"


def column_notices(column: pd.Series) -> Iterator[str]:
    """Yield notices about a covariate. The name of its column goes before each notice.

    A number of `SENTINELS` is reported if all other numbers are far from it. For -1 these must be 0
    or more, and for 999 they must be well below 999.
    """
    known = column.dropna()
    if known.empty:
        return
    if not pd.api.types.is_numeric_dtype(known):
        dates = int(known.str.fullmatch(DATE).sum())
        if 2 * dates > len(known):
            yield f"holds {dates} dates; each different date counts as a level of its own"
        return
    values = known.astype(float)
    for sentinel in SENTINELS:
        count = int((values == sentinel).sum())
        others = values[~values.isin(SENTINELS)]
        if not count or others.empty:
            continue
        if sentinel < 0 <= others.min() or (
            sentinel > 0 and others.max() <= (1 - APART) * sentinel
        ):
            yield (
                f"holds {sentinel} in {count} rows, which may mean unknown but counts as a "
                "number; leave such cells empty"
            )
