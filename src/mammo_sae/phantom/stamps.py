"""A small patch to add to an image, so that the cost of drawing depends on the patch only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stamp:
    """Grey (or opacity) of a patch, [h, w] float32, from row `top` and column `left`.

    It is 0 where nothing is drawn.
    """

    top: int
    left: int
    grey: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """Return the rows and columns of the image that the stamp covers."""
        rows, columns = self.grey.shape
        return slice(self.top, self.top + rows), slice(self.left, self.left + columns)

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the pixels in which the stamp draws, bool [H, W]."""
        mask = np.zeros(shape, bool)
        mask[self.window] = self.grey > 0
        return mask


def patch_grid(
    centre: tuple[float, float], reach: float, shape: tuple[int, int]
) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Return the grid of a square around `centre`, clipped to an image of `shape`.

    The square extends `reach` pixels to each side. Returned are its top row, its left column, and
    the offsets of its pixels from `centre`, y [h, 1] and x [1, w].
    """
    (cy, cx), (height, width) = centre, shape
    top, bottom = max(int(cy - reach), 0), min(int(cy + reach) + 2, height)
    left, right = max(int(cx - reach), 0), min(int(cx + reach) + 2, width)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(cy)
    x = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(cx)
    return top, left, y, x
