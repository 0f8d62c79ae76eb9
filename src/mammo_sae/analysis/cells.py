"""Masks on a layer's grid: the area of each cell that a mask covers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mammo_sae.grids import LayerGrid, cell_areas
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import ImageReader

MAP_BYTES = 128 << 20  # bytes of dense maps in memory at a time


def image_areas(
    store: ImageReader, image_ids: Sequence[str], regions: Sequence[str], grid: LayerGrid
) -> tuple[np.ndarray, np.ndarray]:
    """Return the area in pixels of the breast [n, R, C] and of regions [n, r, R, C] in each cell.

    The area of a region includes its parts outside the breast. Images are read a few at a time.
    """
    wanted = [store.regions.index(region) for region in regions]
    shape = (grid.rows, grid.columns)
    breast = np.empty((len(image_ids), *shape), np.float32)
    inside = np.empty((len(image_ids), len(wanted), *shape), np.float32)
    step = max(1, MAP_BYTES // (store.height * store.width * 4 * (1 + len(store.regions))))
    for start in range(0, len(image_ids), step):
        part = list(image_ids[start : start + step])
        breast[start : start + step] = cell_areas(store.breast(part), grid)
        if wanted:
            masks = store.region_masks(part)[:, wanted]
            inside[start : start + step] = cell_areas(masks, grid)
    return breast, inside


def stream_maps(
    codes: CodesReader, positions: np.ndarray, latents: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows of `positions`, maps [b, m, R, C]) of `latents`, in batches of bounded size."""
    size = codes.grid.rows * codes.grid.columns * 4 * max(1, len(latents))
    step = max(1, MAP_BYTES // size)
    for start in range(0, len(positions), step):
        rows = slice(start, min(start + step, len(positions)))
        yield rows, codes.maps(positions[rows], latents)
