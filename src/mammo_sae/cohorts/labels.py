"""Labels for scoring: one per image, or one per row of the source's table of findings.

With labels by image, an image has a concept if any of its findings has it. With labels by finding,
each row of the source's table is scored, as in the published code of Mammo-CLIP and Mammo-SAE: an
image with three findings counts three times, and the rows of one image may contradict each other.
The images table then has two more columns per concept: the number of rows with a known label for
the concept, and the number of positive rows. Every row has the score of its image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from mammo_sae.cohorts.units import FINDING, IMAGE, row_columns


def labelling(images: pd.DataFrame, concepts: Iterable[str]) -> str:
    """Return the unit of a table's labels: ``finding`` if it has row columns, else ``image``."""
    by_finding = any(row_columns(concept)[0] in images for concept in concepts)
    return FINDING if by_finding else IMAGE


def labelled(images: pd.DataFrame, concept: str) -> np.ndarray:
    """Return the positions of images with a known label, in order.

    Each position occurs once, or with labels by finding once per row.
    """
    positions = np.flatnonzero(images[concept].notna())
    rows, _ = row_columns(concept)
    if rows not in images:
        return positions
    return np.repeat(positions, images[rows].iloc[positions].to_numpy(dtype=np.int64))


def truth(images: pd.DataFrame, concept: str, positions: np.ndarray) -> np.ndarray:
    """Return the labels, bool [n], of `positions`, all of which must be known.

    A position that occurs once has the image's label. With labels by finding, the first occurrences
    of an image are its positive rows, and the others its negative rows.
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
    """Return the training rows of a model of several concepts: positions [r] and labels [r, c].

    With labels by image, every image occurs once. With labels by finding, the number of rows of
    an image is the largest of its numbers of rows per concept. Labels are float32: 0, 1, or NaN if
    a row has no label for a concept.
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
