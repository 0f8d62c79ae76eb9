"""A column of the image table as few categories: the levels of a confounder."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

NUMERIC_BINS = 4  # a numeric confounder with many values is cut at its quartiles


@dataclass(frozen=True)
class Levels:
    """A confounder as categories: `code` [n] of each image, -1 unknown, and their `names`."""

    code: np.ndarray
    names: list[str]


def levels(column: pd.Series, most: int) -> Levels:
    """Return `column` as at most `most` categories, numbers with more values cut at quartiles.

    Categories beyond the `most` - 1 most frequent become one, "other".
    """
    known = column.dropna()
    if pd.api.types.is_numeric_dtype(known) and known.nunique() > most:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        inner = np.linspace(0, 1, NUMERIC_BINS + 1)[1:-1]
        edges = np.unique(np.quantile(known.to_numpy(dtype=np.float64), inner))
        code = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="right"))
        bounds = ["", *(f"{edge:g}" for edge in edges), ""]
        names = [f"{a}..{b}" for a, b in pairwise(bounds)]
        return Levels(code.astype(np.int64), names)
    text = column.astype("string")
    counts = text.value_counts()
    kept = sorted(counts.index if len(counts) <= most else counts.index[: most - 1])
    names = [str(name) for name in kept]
    code = pd.Index(names).get_indexer(text.fillna("").to_list()).astype(np.int64)
    if len(counts) > most:
        code[(code < 0) & text.notna().to_numpy()] = len(names)
        names.append("other")
    code[text.isna().to_numpy()] = -1
    return Levels(code, names)
