"""The positions of a layer's cells on the canonical image, and the areas of masks in cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LayerGrid:
    """The positions of a layer's cells on the canonical image.

    Cell (i, j) is the block of canonical pixels with y in [offset_y + i * stride, offset_y + (i +
    1) * stride), and x in the same way with j and offset_x. `receptive_field` is the edge length,
    in pixels, of the square that can influence the cell.
    """

    layer: str
    channels: int
    rows: int
    columns: int
    stride: int
    offset_y: float
    offset_x: float
    receptive_field: int


def overlap(cells: int, stride: int, offset: float, pixels: int) -> np.ndarray:
    """Return [cells, pixels]: the length of the overlap of each cell with each pixel.

    Cell i covers offset + i * stride to offset + (i + 1) * stride.
    """
    start = offset + stride * np.arange(cells)[:, None]
    pixel = np.arange(pixels)[None]
    shared = np.minimum(start + stride, pixel + 1) - np.maximum(start, pixel)
    return np.clip(shared, 0.0, None).astype(np.float32)


def cell_areas(masks: np.ndarray, grid: LayerGrid) -> np.ndarray:
    """Return float32 [..., R, C], the area in pixels of `masks` [..., H, W] inside each cell.

    Cells are placed by stride and offset, never by resizing the mask, because a grid of ceil(H /
    stride) rows would shift by up to half a cell.
    """
    height, width = masks.shape[-2:]
    rows = overlap(grid.rows, grid.stride, grid.offset_y, height)
    columns = overlap(grid.columns, grid.stride, grid.offset_x, width)
    lines = np.zeros((*masks.shape[:-2], grid.rows, width), np.float32)
    # A row of cells overlaps few rows of pixels, so a product with all of them would waste time.
    for row, (first, last) in enumerate(_spans(grid.rows, grid.stride, grid.offset_y, height)):
        lines[..., row, :] = rows[row, first:last] @ masks[..., first:last, :].astype(np.float32)
    return lines @ columns.T


def touched_cells(masks: np.ndarray, grid: LayerGrid) -> np.ndarray:
    """Return bool [n, R, C]: a pixel of `masks` [n, H, W] lies at least partly inside the cell."""
    height, width = masks.shape[-2:]
    bits = np.ascontiguousarray(masks, dtype=bool).view(np.uint8)
    rows = _spans(grid.rows, grid.stride, grid.offset_y, height)
    columns = _spans(grid.columns, grid.stride, grid.offset_x, width)
    # Rows come first, because whole lines are combined at once.
    lines = np.stack([np.bitwise_or.reduce(bits[:, a:b], axis=1) for a, b in rows], axis=1)
    return np.stack([lines[..., a:b].any(axis=-1) for a, b in columns], axis=-1)


def _spans(cells: int, stride: int, offset: float, pixels: int) -> list[tuple[int, int]]:
    """Return, for each cell, the first pixel that overlaps it and the last such pixel + 1."""
    start = offset + stride * np.arange(cells)
    first = np.clip(np.floor(start), 0, pixels).astype(int)
    last = np.clip(np.ceil(start + stride), 0, pixels).astype(int)
    return list(zip(first.tolist(), last.tolist(), strict=True))
