"""Masks on a layer's grid: the area of each cell that a mask covers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mammo_sae.grids import LayerGrid, cell_areas
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import ImageReader

MAP_BYTES = 128 << 20  # bytes of dense maps in memory at a time
CODES_PER_CELL = 64  # assumed at first where the number of codes varies
BYTES_PER_CODE = 24  # of the arrays in memory while a block is read


def image_areas(
    store: ImageReader, image_ids: Sequence[str], regions: Sequence[str], grid: LayerGrid
) -> tuple[np.ndarray, np.ndarray]:
    """Return the area in pixels of the breast [n, R, C] and of regions [n, r, R, C] in each cell.

    The area of a region includes its parts outside the breast. Images are read a few at a time.
    """
    breast, inside, _ = measured_areas(store, image_ids, regions, grid)
    return breast, inside


def measured_areas(
    store: ImageReader, image_ids: Sequence[str], regions: Sequence[str], grid: LayerGrid
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the areas of `image_areas`, and the whole areas in pixels [n, 1 + r].

    The whole areas are those of the breast and of the regions. They include what lies beyond the
    layer's grid, so they are the same for every layer.
    """
    wanted = [store.regions.index(region) for region in regions]
    shape = (grid.rows, grid.columns)
    breast = np.empty((len(image_ids), *shape), np.float32)
    inside = np.empty((len(image_ids), len(wanted), *shape), np.float32)
    whole = np.empty((len(image_ids), 1 + len(wanted)))
    planes = 1 + (len(store.regions) if wanted else 0)
    step = max(1, MAP_BYTES // (store.height * store.width * 4 * planes))
    for start in range(0, len(image_ids), step):
        part = list(image_ids[start : start + step])
        rows = slice(start, start + len(part))
        here = store.breast(part)
        breast[rows], whole[rows, 0] = cell_areas(here, grid), here.sum(axis=(1, 2))
        if wanted:
            masks = store.region_masks(part)[:, wanted]
            inside[rows], whole[rows, 1:] = cell_areas(masks, grid), masks.sum(axis=(2, 3))
    return breast, inside, whole


def stream_maps(
    codes: CodesReader, positions: np.ndarray, latents: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows of `positions`, maps [b, m, R, C]) of `latents`, in batches of bounded size.

    The bound holds for the maps of a batch and for the codes from which they are made. With few
    latents, the codes take more memory than the maps.
    """
    for rows in _batches(codes, positions, 4 * len(latents)):
        yield rows, codes.maps(positions[rows], latents)


def _batches(codes: CodesReader, positions: np.ndarray, least: int) -> Iterator[slice]:
    """Yield slices of `positions` whose codes take at most `MAP_BYTES`, or that hold one image.

    A cell takes `least` bytes or more. Where the number of codes varies, all cells of a batch have
    as many slots as the fullest of them, so an image with a full cell comes in a small batch.
    """
    size = codes.grid.rows * codes.grid.columns
    start = 0
    while start < len(positions):
        of_cell = max(least, (codes.k or CODES_PER_CELL) * BYTES_PER_CODE)
        count = max(1, MAP_BYTES // (size * of_cell))
        if codes.k is None:
            widths = np.maximum.accumulate(codes.widths(positions[start : start + count]))
            taken = np.arange(1, len(widths) + 1) * widths * size * BYTES_PER_CODE
            count = max(1, int((taken <= MAP_BYTES).sum()))
        rows = slice(start, min(start + count, len(positions)))
        yield rows
        start = rows.stop


@dataclass(frozen=True)
class ActiveCells:
    """The cells of some images in which latents are active, image after image, all [a].

    Cells above the limit of the SAE, if it has one, are left out.

    `image` counts the images of the block, `which` the latents that were asked for. `cell` numbers
    the cells of an image row by row.
    """

    image: np.ndarray
    which: np.ndarray
    cell: np.ndarray
    value: np.ndarray

    def of(self, image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (which, cell, value) of one image."""
        start, stop = np.searchsorted(self.image, [image, image + 1])
        return self.which[start:stop], self.cell[start:stop], self.value[start:stop]


def stream_active(
    codes: CodesReader, positions: np.ndarray, latents: np.ndarray
) -> Iterator[tuple[slice, ActiveCells]]:
    """Yield (rows of `positions`, active cells of `latents`), in blocks of bounded size.

    In contrast to `stream_maps`, a block's size does not grow with the number of latents.
    """
    place = np.full(codes.latents, -1, np.int32)
    place[latents] = np.arange(len(latents), dtype=np.int32)
    for rows in _batches(codes, positions, 0):
        index, value = codes.counted_cells(positions[rows])
        which = place[index]
        found = np.flatnonzero((which >= 0) & (value > 0))
        image, rest = np.divmod(found, int(np.prod(index.shape[1:])))
        yield (
            rows,
            ActiveCells(
                image=image,
                which=which.ravel()[found],
                cell=rest // index.shape[3],
                value=value.ravel()[found],
            ),
        )
