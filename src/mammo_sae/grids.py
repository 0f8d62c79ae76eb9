"""Where the cells of a layer lie on the canonical image, and how much of each a mask covers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LayerGrid:
    """Where a layer's cells lie on the canonical image.

    Cell (i, j) stands for the canonical pixels y in [offset_y + i * stride, offset_y + (i + 1) *
    stride), and x likewise; `receptive_field` is the edge in pixels of what can influence it.
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
    """Return [cells, pixels]: length that cell i, from offset + i * stride, shares with a pixel."""
    start = offset + stride * np.arange(cells)[:, None]
    pixel = np.arange(pixels)[None]
    shared = np.minimum(start + stride, pixel + 1) - np.maximum(start, pixel)
    return np.clip(shared, 0.0, None).astype(np.float32)


def cell_areas(masks: np.ndarray, grid: LayerGrid) -> np.ndarray:
    """Return float32 [..., R, C], the area in pixels of `masks` [..., H, W] inside each cell.

    Cells are placed by stride and offset, never by resizing the mask: a grid of ceil(H / stride)
    rows would shift by up to half a cell.
    """
    height, width = masks.shape[-2:]
    rows = overlap(grid.rows, grid.stride, grid.offset_y, height)
    columns = overlap(grid.columns, grid.stride, grid.offset_x, width)
    return rows @ masks.astype(np.float32) @ columns.T


def touched_cells(masks: np.ndarray, grid: LayerGrid) -> np.ndarray:
    """Return bool [n, R, C]: a pixel of `masks` [n, H, W] lies at least partly inside the cell."""
    height, width = masks.shape[-2:]
    bits = np.ascontiguousarray(masks, dtype=bool).view(np.uint8)
    rows = _spans(grid.rows, grid.stride, grid.offset_y, height)
    columns = _spans(grid.columns, grid.stride, grid.offset_x, width)
    # Rows first: whole lines are combined at once.
    lines = np.stack([np.bitwise_or.reduce(bits[:, a:b], axis=1) for a, b in rows], axis=1)
    return np.stack([lines[..., a:b].any(axis=-1) for a, b in columns], axis=-1)


def _spans(cells: int, stride: int, offset: float, pixels: int) -> list[tuple[int, int]]:
    """Return first and last + 1 of the pixels that each cell shares something with."""
    start = offset + stride * np.arange(cells)
    first = np.clip(np.floor(start), 0, pixels).astype(int)
    last = np.clip(np.ceil(start + stride), 0, pixels).astype(int)
    return list(zip(first.tolist(), last.tolist(), strict=True))
