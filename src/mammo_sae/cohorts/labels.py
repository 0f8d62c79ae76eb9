"""Labels as they are scored: one per image, or one per row of the source's table of findings.

By image, an image has a concept if any of its findings is of it. By finding, each row of the
source's table is scored, as Mammo-CLIP's and Mammo-SAE's published code does: an image with three
findings counts three times, and the rows of one image may contradict each other. The images table
then has two more columns per concept, the number of rows that speak of it and how many of them are
positive; every row is scored with the score of its image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from mammo_sae.cohorts.units import FINDING, IMAGE, row_columns


def labelling(images: pd.DataFrame, concepts: Iterable[str]) -> str:
    """Return what an images table counts: ``image``, or ``finding`` if it has the row columns."""
    by_finding = any(row_columns(concept)[0] in images for concept in concepts)
    return FINDING if by_finding else IMAGE


def labelled(images: pd.DataFrame, concept: str) -> np.ndarray:
    """Return the positions of images whose label is known, in order: an image once, or per row."""
    positions = np.flatnonzero(images[concept].notna())
    rows, _ = row_columns(concept)
    if rows not in images:
        return positions
    return np.repeat(positions, images[rows].iloc[positions].to_numpy(dtype=np.int64))


def truth(images: pd.DataFrame, concept: str, positions: np.ndarray) -> np.ndarray:
    """Return the labels, bool [n], of `positions`, all of which must be known.

    An image that stands there once has the image's label. By finding, its first occurrences are its
    positive rows and the others its negative ones.
    """
    rows, positive = row_columns(concept)
    if rows not in images:
        return images[concept].iloc[positions].to_numpy(dtype=np.int64) == 1
    positions = np.asarray(positions, dtype=np.int64)
    order = np.argsort(positions, kind="stable")
    sorted_positions = positions[order]
    occurrence = np.empty(len(positions), dtype=np.int64)
    starts = np.searchsorted(sorted_positions, sorted_positions, side="left")
    occurrence[order] = np.arange(len(positions)) - starts
    return occurrence < images[positive].iloc[positions].to_numpy(dtype=np.int64)


def rows_of(images: pd.DataFrame, concepts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return what a model of several concepts learns from: positions [r] and labels [r, c].

    By image, every image once. By finding, an image as often as it has rows, of the concept with
    the most; labels are float32, 0, 1, or NaN where a row says nothing of a concept.
    """
    if labelling(images, concepts) == IMAGE:
        known = images[list(concepts)].to_numpy(dtype=np.float32, na_value=np.nan)
        return np.arange(len(images)), known
    counts = images[[row_columns(concept)[0] for concept in concepts]].to_numpy(dtype=np.int64)
    positive = images[[row_columns(concept)[1] for concept in concepts]].to_numpy(dtype=np.int64)
    times = counts.max(axis=1, initial=0)
    positions = np.repeat(np.arange(len(images)), times)
    occurrence = np.arange(len(positions)) - np.repeat(np.cumsum(times) - times, times)
    labels = (occurrence[:, None] < positive[positions]).astype(np.float32)
    labels[occurrence[:, None] >= counts[positions]] = np.nan
    return positions, labels
