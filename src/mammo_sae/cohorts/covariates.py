"""Covariates whose cells may not be what they seem: numbers for "unknown", dates."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

SENTINELS = (-999, -99, -9, -1, 99, 999, 9999)
"""Numbers that tables write for "unknown"."""
APART = 0.1  # a sentinel above: nothing else lies within this share of it
DATE = r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})(?:[ T].*)?"


def column_notices(column: pd.Series) -> Iterator[str]:
    """Yield what to notice about a covariate, the rest of a sentence about its column.

    A number of `SENTINELS` is noticed where all other numbers lie apart from it: -1 where they are
    0 or more, 999 where they are well below.
    """
    known = column.dropna()
    if known.empty:
        return
    if not pd.api.types.is_numeric_dtype(known):
        dates = int(known.str.fullmatch(DATE).sum())
        if 2 * dates > len(known):
            yield f"holds {dates} dates, each of which is taken for a word of its own"
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
                f"holds {sentinel} in {count} rows, which may stand for unknown and is taken for a "
                "number; leave such cells empty"
            )
