"""Columns of the image table, other than concepts, that may explain why a latent fires."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mammo_sae.analysis.levels import levels
from mammo_sae.cohorts.columns import IMAGE_COLUMNS
from mammo_sae.cohorts.units import row_columns

# Columns of any cohort that describe how an image was acquired, or what tissue it shows.
SAID = ("manufacturer", "model", "pixel_spacing_mm")
TISSUE = ("density", "view", "side", "age_bin", "breast_area", "density_estimate")


def covariates_of(cases: pd.DataFrame, concepts: Sequence[str]) -> list[str]:
    """Return the columns of an image table that are the cohort's covariates."""
    counted = [name for concept in concepts for name in row_columns(concept)]
    known = {*IMAGE_COLUMNS, *concepts, *counted}
    return [name for name in cases if name not in known]


def candidates(
    cases: pd.DataFrame, names: Sequence[str], splits: Sequence[str], most: int
) -> list[str]:
    """Return those of `names` that vary over the images of `splits`.

    Each column is reduced to at most `most` levels. If several columns (for example model and
    manufacturer) then divide the images in the same way, only the first is kept.
    """
    rows = cases[cases["split"].isin(splits)]
    seen: set[tuple[int, ...]] = set()
    kept = []
    for name in names:
        code = levels(rows[name], most).code
        parts = tuple(pd.factorize(np.where(code < 0, np.nan, code))[0].tolist())
        if max(parts, default=-1) > 0 and parts not in seen:
            seen.add(parts)
            kept.append(name)
    return kept
