"""The choice of an SAE's training cells: breast cells, a share of the others, a limit per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mammo_sae.errors import InputError
from mammo_sae.grids import LayerGrid, touched_cells
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.images import ImageReader

MASK_BYTES = 128 << 20  # bytes of masks in memory at a time
DRAWN = 1 << 22  # random numbers in memory at a time


def breast_cells(store: ImageReader, image_ids: Sequence[str], grid: LayerGrid) -> np.ndarray:
    """Return bool [n, R * C]: True where the breast covers a part of the cell."""
    inside = np.empty((len(image_ids), grid.rows * grid.columns), dtype=bool)
    step = max(1, MASK_BYTES // (store.height * store.width))
    for start in range(0, len(image_ids), step):
        part = list(image_ids[start : start + step])
        inside[start : start + step] = touched_cells(store.breast(part), grid).reshape(
            len(part), -1
        )
    return inside


def kept_cells(
    reader: EmbeddingReader,
    image_stores: Sequence[Path],
    share: float,
    most: int | None,
    short: np.ndarray | None = None,
) -> np.ndarray | None:
    """Return bool [n, R * C] of the reader's images: True for cells used in training.

    Training uses the cells that the breast touches and the share `share` of the other cells. If
    `short` is given, only cells that are True in it are used. If `most` is given, at most `most` of
    these cells are drawn from each image, without replacement. Every epoch and every SAE of the
    layer uses the same cells. The return value None means all cells.

    Raises
    ------
    InputError
        If cells outside the breast are to be left out and no image store is given.
    """
    if share == 1 and most is None and short is None:
        return None
    grid = reader.grid
    if share == 1:
        kept = np.ones((len(reader), grid.rows * grid.columns), dtype=bool)
    elif not image_stores:
        raise InputError(f"background = {share:g} needs the image stores; give their manifests")
    else:
        kept = breast_cells(ImageReader(image_stores), reader.image_ids, grid)
        _add(kept, share, np.random.default_rng(1))
    if short is not None:
        kept &= short
    if most is not None and most < kept.shape[1]:
        _thin(kept, most, np.random.default_rng(2))
    return kept


def _add(kept: np.ndarray, share: float, random: np.random.Generator) -> None:
    """Set the share `share` of the cells of `kept` to True, in place."""
    step = max(1, DRAWN // kept.shape[1])
    for start in range(0, len(kept), step):
        part = kept[start : start + step]
        part |= random.random(part.shape) < share


def _thin(kept: np.ndarray, most: int, random: np.random.Generator) -> None:
    """Draw at most `most` True cells in each row of `kept`; set the others to False, in place."""
    step = max(1, DRAWN // kept.shape[1])
    for start in range(0, len(kept), step):
        part = kept[start : start + step]
        drawn = random.random(part.shape)
        drawn[~part] = 2.0  # sorts after every kept cell, whose number is below 1
        last = np.partition(drawn, most - 1, axis=1)[:, most - 1]
        part &= drawn <= last[:, None]
