"""Which cells training sees: all of the breast's, and a share of those outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mammo_sae.errors import InputError
from mammo_sae.stores.coverage import cell_areas
from mammo_sae.stores.embeddings import EmbeddingReader, LayerGrid
from mammo_sae.stores.images import ImageReader

MASK_BYTES = 128 << 20  # masks held at once


def breast_cells(
    image_stores: Sequence[Path], image_ids: Sequence[str], grid: LayerGrid
) -> np.ndarray:
    """Return bool [n, R * C]: the breast covers some of the cell.

    Parameters
    ----------
    image_stores
        Manifests of the image stores, one per shard.
    """
    store = ImageReader(image_stores)
    inside = np.empty((len(image_ids), grid.rows * grid.columns), dtype=bool)
    step = max(1, MASK_BYTES // (4 * store.height * store.width))
    for start in range(0, len(image_ids), step):
        part = list(image_ids[start : start + step])
        areas = cell_areas(store.breast(part), grid)
        inside[start : start + step] = (areas > 0).reshape(len(part), -1)
    return inside


def kept_cells(
    reader: EmbeddingReader, image_stores: Sequence[Path], share: float, seed: int
) -> np.ndarray | None:
    """Return bool [n, R * C] of the reader's images: breast, and `share` of what is outside.

    None stands for every cell. The same cells are kept in every epoch.

    Raises
    ------
    InputError
        If cells are to be left out and no image store is given.
    """
    if share == 1:
        return None
    if not image_stores:
        raise InputError(f"background = {share:g} needs the image stores; give their manifests")
    inside = breast_cells(image_stores, reader.image_ids, reader.grid)
    drawn = np.random.default_rng([seed, 1]).random(inside.shape) < share
    return inside | drawn
