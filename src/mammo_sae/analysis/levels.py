"""Reduction of a confounder, a column of the image table, to a few levels (categories)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

NUMERIC_BINS = 4  # a numeric confounder with many values is cut at its quartiles


@dataclass(frozen=True)
class Levels:
    """A confounder as categories: the `code` [n] of each image (-1: unknown) and their `names`."""

    code: np.ndarray
    names: list[str]


def levels(column: pd.Series, most: int) -> Levels:
    """Return the values of `column` as at most `most` categories.

    A numeric column with more than `most` different values is binned (see `_binned`). The levels of
    a numeric column are in ascending order, and values that are not finite are unknown. If a text
    column has more than `most` different values, the `most` - 1 most frequent are kept and the
    others become one level, "other".
    """
    known = column.dropna()
    numbers = pd.api.types.is_numeric_dtype(known) and not pd.api.types.is_bool_dtype(known)
    if numbers and len(known):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        values = np.where(np.isfinite(values), values, np.nan)
        return _binned(values, min(NUMERIC_BINS, most)) if known.nunique() > most else _few(values)
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


def _few(values: np.ndarray) -> Levels:
    """Return `values` [n] as levels, one level per different number; NaN is unknown."""
    found = np.unique(values[~np.isnan(values)])
    code = np.where(np.isnan(values), -1, np.searchsorted(found, values))
    return Levels(code.astype(np.int64), [_name(value) for value in found])


def _binned(values: np.ndarray, bins: int) -> Levels:
    """Return numbers [n] as at most `bins` levels with about equally many images; NaN is unknown.

    A value that at least 1 / `bins` of the images have (the 0 of a count, a sentinel such as 99) is
    a level of its own. The other numbers are cut at their quantiles into the remaining bins.
    Otherwise several quantiles could equal the frequent value, and their bins would be empty.
    """
    found, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    repeated = found[counts * bins >= counts.sum()]
    other = ~np.isin(values, repeated) & ~np.isnan(values)
    share = other.sum() / counts.sum()
    parts = [(value, _name(value), values == value) for value in repeated]
    if other.any():
        inner = np.linspace(0, 1, max(1, round(bins * share)) + 1)[1:-1]
        edges = np.unique(np.quantile(values[other], inner))
        place = np.searchsorted(edges, values, side="right")
        bounds = ["", *map(_name, edges), ""]
        for number, (low, high) in enumerate(pairwise(bounds)):
            inside = other & (place == number)
            if inside.any():
                name = f"{low}..{high}" if len(edges) else "other"
                parts.append((np.median(values[inside]), name, inside))
    code = np.full(len(values), -1, np.int64)
    parts.sort(key=lambda part: part[0])
    for number, (_, _, inside) in enumerate(parts):
        code[inside] = number
    return Levels(code, [name for _, name, _ in parts])


def _name(value: float) -> str:
    return f"{value:.12g}"
