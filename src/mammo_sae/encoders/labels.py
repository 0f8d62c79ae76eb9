"""Labels of a split, from the cohort table, for training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.cohorts.labels import labelling, rows_of
from mammo_sae.cohorts.units import IMAGE
from mammo_sae.errors import InputError


def concept_labels(
    cohort: pd.DataFrame, split: str, concepts: Sequence[str], where: Path
) -> tuple[list[str], np.ndarray]:
    """Return the images of `split` and their labels for `concepts`.

    Parameters
    ----------
    cohort
        One row per image: image_id, split, a column per concept.
    split
        Split whose images are returned.
    concepts
        Columns of the labels.
    where
        The table's path, for error messages.

    Returns
    -------
    Image ids in the order of the table, and float32 [n, c]: 0, 1, or NaN if unlabelled. With
    labels by finding, an image occurs once per row of findings (`mammo_sae.cohorts.labels`).

    Raises
    ------
    InputError
        If a column is missing, has values other than 0 and 1, or lacks positives or negatives.
    """
    missing = [concept for concept in concepts if concept not in cohort]
    if missing:
        raise InputError(
            f"{where} has no column {missing[0]!r} for the concept of that name; add it or leave "
            "the concept out"
        )
    rows = cohort[cohort["split"] == split]
    positions, labels = rows_of(rows, concepts)
    unit = "images" if labelling(rows, concepts) == IMAGE else "rows of findings"
    for concept, column in zip(concepts, labels.T, strict=True):
        known = column[~np.isnan(column)]
        if not np.isin(known, (0, 1)).all():
            raise InputError(
                f"{where}: column {concept} holds other values than 0 and 1; correct them"
            )
        if not (known == 1).any() or not (known == 0).any():
            raise InputError(
                f"{where}: split {split} has {int((known == 1).sum())} positive and "
                f"{int((known == 0).sum())} negative {unit} of {concept}; both are needed to "
                "learn it"
            )
    return rows["image_id"].iloc[positions].tolist(), labels
