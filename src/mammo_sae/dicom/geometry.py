"""The map from pixels of the original matrix to the canonical image, and back.

Coordinates are (x, y) with pixel edges on whole numbers: pixel (row r, column c) covers
[c, c + 1) x [r, r + 1). So a box around one pixel has side 1 in the original image and side `scale`
in the canonical image, and there is no shift by half a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage, sparse

ROWS_AT_ONCE = 32  # rows of the target that fit the processor's cache with their source rows


@dataclass(frozen=True)
class Geometry:
    """Crop, flip, scale and pad, in this order.

    Attributes
    ----------
    crop : (x0, y0, x1, y1)
        Original pixels (whole ones) that enter the canonical image.
    flipped : bool
        Whether the crop is mirrored left to right.
    scale_x, scale_y : float
        Canonical pixels per original pixel.
    offset_x, offset_y : float
        Canonical position of the crop's left and top edges after the flip, pixels.
    height, width : int
        Size of the canonical image, pixels.
    """

    crop: tuple[int, int, int, int]
    flipped: bool
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    height: int
    width: int

    @property
    def affine(self) -> np.ndarray:
        """The map from original to canonical coordinates: [2, 3], (x', y') = A (x, y, 1)."""
        x0, y0, x1, _ = self.crop
        a = -self.scale_x if self.flipped else self.scale_x
        start = x1 if self.flipped else x0
        return np.array(
            [
                [a, 0.0, self.offset_x - a * start],
                [0.0, self.scale_y, self.offset_y - self.scale_y * y0],
            ]
        )

    def resample(self, stored: np.ndarray, table: np.ndarray) -> np.ndarray:
        """Return the area average over each canonical pixel: float32 [height, width].

        `stored` is the whole original image [rows, columns]. `table` gives the display value
        (float32) of each stored value. The area outside the crop or the image counts as 0.
        """
        x0, y0, x1, y1 = self.crop
        part = stored[y0:y1, x0:x1]
        part = part[:, ::-1] if self.flipped else part
        blocks = _row_blocks(y1 - y0, self.height, self.scale_y, self.offset_y)
        horizontal = area_weights(x1 - x0, self.width, self.scale_x, self.offset_x)
        out = np.zeros((self.height, self.width), np.float32)
        # A few rows at a time: a float32 copy of the whole image would be read three times.
        most = max(block.source.stop - block.source.start for block in blocks)
        values = np.empty((most, x1 - x0), np.float32)
        for block in blocks:
            rows = part[block.source]
            taken = np.take(table, rows, out=values[: len(rows)], mode="clip")
            narrow = block.weights @ taken
            out[block.target] = (horizontal @ np.ascontiguousarray(narrow.T)).T
        return out

    def resample_mask(self, mask: np.ndarray) -> np.ndarray:
        """Return the canonical pixels that a binary mask covers: bool [height, width].

        A canonical pixel belongs to the mask if at least half of it is covered. A connected part
        may be too small to cover half of any pixel (a calcification after a strong reduction). It
        keeps the pixel that it covers most, so that no lesion inside the crop vanishes.
        """
        found = np.zeros((self.height, self.width), dtype=bool)
        bounds = ndimage.find_objects(np.asarray(mask, dtype=np.uint8))
        if not bounds:
            return found
        top_row, left_column = (axis.start for axis in bounds[0])
        labels, _ = ndimage.label(mask[bounds[0]], structure=np.ones((3, 3)))
        for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
            origin = top_row + rows.start, left_column + columns.start
            coverage, top, left = self._coverage(labels[rows, columns] == label, *origin)
            if coverage.size and coverage.max() > 0:
                kept = coverage >= min(0.5, coverage.max())
                found[top : top + kept.shape[0], left : left + kept.shape[1]] |= kept
        return found

    def fill_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Return canonical pixels inside any of the original `boxes` [n, 4]: bool [height, width].

        As in `resample_mask`, half of a pixel must be covered, and no box in the crop vanishes.
        """
        filled = np.zeros((self.height, self.width), dtype=bool)
        for x0, y0, x1, y1 in transform_boxes(self.affine, boxes):
            vertical = _overlap(y0, y1, self.height)
            horizontal = _overlap(x0, x1, self.width)
            coverage = vertical[:, None] * horizontal
            if coverage.max() > 0:
                filled |= coverage >= min(0.5, coverage.max())
        return filled

    def _coverage(self, part: np.ndarray, row: int, column: int) -> tuple[np.ndarray, int, int]:
        """Return the share of each canonical pixel that a mask covers, in a cut-out around it.

        `part` is the mask, whose first pixel lies at (`row`, `column`) of the original image. Also
        return the top row and the left column of the cut-out.
        """
        box = np.array([[column, row, column + part.shape[1], row + part.shape[0]]], dtype=float)
        x0, y0, x1, y1 = transform_boxes(self.affine, box)[0]
        left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
        right, bottom = min(self.width, int(np.ceil(x1))), min(self.height, int(np.ceil(y1)))
        if right <= left or bottom <= top:
            return np.zeros((0, 0), dtype=np.float32), 0, 0
        part = part[:, ::-1] if self.flipped else part
        vertical = area_weights(part.shape[0], bottom - top, self.scale_y, y0 - top)
        horizontal = area_weights(part.shape[1], right - left, self.scale_x, x0 - left)
        dense = np.ascontiguousarray(part, dtype=np.float32)
        # The added 1e-5 is for sums of float32 weights that fall below a half by rounding.
        return (horizontal @ (vertical @ dense).T).T + 1e-5 * part.any(), top, left


@lru_cache(maxsize=64)
def area_weights(source: int, target: int, scale: float, offset: float) -> sparse.csr_array:
    """Return the weights [target, source] of an area-averaging resize along one axis.

    Source pixel s covers [s * scale + offset, (s + 1) * scale + offset) of the target axis. Its
    weight in a target pixel is the length that it covers there. Images of equal size share the
    returned array: do not change it.
    """
    edges = np.clip(np.arange(source + 1) * scale + offset, 0, target)
    cuts = np.union1d(edges, np.arange(target + 1))
    lengths = np.diff(cuts)
    middles = (cuts[:-1] + cuts[1:]) / 2
    to = np.minimum(middles.astype(np.int64), target - 1)
    origin = np.floor((middles - offset) / scale).astype(np.int64)
    inside = (lengths > 1e-9) & (origin >= 0) & (origin < source)
    return sparse.csr_array(
        (lengths[inside].astype(np.float32), (to[inside], origin[inside])), shape=(target, source)
    )


@dataclass(frozen=True)
class _RowBlock:
    """Neighbouring rows of the target, the source rows that they average, and the weights."""

    target: slice
    source: slice
    weights: sparse.csr_array


@lru_cache(maxsize=64)
def _row_blocks(source: int, target: int, scale: float, offset: float) -> tuple[_RowBlock, ...]:
    weights = area_weights(source, target, scale, offset)
    blocks = []
    for start in range(0, target, ROWS_AT_ONCE):
        mine = slice(start, min(start + ROWS_AT_ONCE, target))
        part = weights[mine]
        if part.nnz:
            rows = slice(int(part.indices.min()), int(part.indices.max()) + 1)
            blocks.append(_RowBlock(mine, rows, part[:, rows]))
    return tuple(blocks)


def _overlap(start: float, stop: float, length: int) -> np.ndarray:
    """Return [length]: the length inside each unit cell that the interval covers."""
    cells = np.arange(length)
    return np.clip(np.minimum(stop, cells + 1) - np.maximum(start, cells), 0, 1)


def transform_boxes(affine: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Map boxes [n, 4] of (xmin, ymin, xmax, ymax) through `affine` [2, 3]; min stays below max."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    first = boxes[:, :2] @ affine[:, :2].T + affine[:, 2]
    second = boxes[:, 2:] @ affine[:, :2].T + affine[:, 2]
    return np.hstack([np.minimum(first, second), np.maximum(first, second)])


def invert_affine(affine: np.ndarray) -> np.ndarray:
    """Return the map from canonical to original coordinates: [2, 3]."""
    linear = np.linalg.inv(affine[:, :2])
    return np.hstack([linear, -(linear @ affine[:, 2:])])
