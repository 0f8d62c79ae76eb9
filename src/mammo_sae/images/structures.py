"""Bright structures of a canonical image that are not tissue: its marker, and straight lines.

The step `measurements` measures them, and `mammo_sae.images.landmarks` gives their pixels.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# Share of the width. Pixels nearer to the breast's edge count neither as breast nor as background.
MARGIN = 1 / 40
MARKER_SIZE = (1e-4, 0.05)  # shares of the image; hot pixels are smaller, no marker is larger
LINE = 1 / 128  # share of the width: half the width of a line
NEAR_CHEST_WALL = 1 / 4  # share of the width
TILTS = np.tan(np.radians(np.linspace(-1.5, 1.5, 11)))  # slopes of a line, columns per row
BLOCKS = 96  # before the search for a line, the rows are averaged in about this many blocks
LEAST_LENGTH = 1 / 3  # shortest line, share of the height


def marker_pixels(pixels: np.ndarray, off: np.ndarray, level: float, gap: int) -> np.ndarray:
    """Return bool [H, W]: the largest group of pixels in `off` that are brighter than `level`.

    Pixels up to 2 `gap` pixels apart are in one group, as the letters of a word are. If no group
    has a plausible size, all are False.
    """
    bright = off & (pixels > level)
    if not bright.any():
        return bright
    groups, _ = ndimage.label(ndimage.maximum_filter(bright, 2 * gap + 1))
    areas = np.bincount(groups[bright])
    least, most = (share * off.size for share in MARKER_SIZE)
    areas[(areas < least) | (areas > most)] = 0
    return bright & (groups == areas.argmax()) & (areas.max() > 0)


def brightest_line(grey: np.ndarray, breast: np.ndarray) -> tuple[float, float, float]:
    """Find the line along the left edge that is brightest compared with the strips next to it.

    Returns
    -------
    The difference in grey levels, the line's column in the middle row, and its slope in columns per
    row. The difference is the median over the rows in which the line lies in the breast, so that a
    lesion on the line has no effect. It is NaN if no line is long enough.
    """
    height, width = grey.shape
    half = max(1, round(LINE * width))
    reach = 3 * half
    positions = round(NEAR_CHEST_WALL * width)
    drift = int(np.ceil(TILTS.max() * height / 2))
    edge = min(positions + drift + reach + half, width)
    mean = ndimage.uniform_filter1d(grey[:, :edge].astype(np.float32), 2 * half + 1, axis=1)
    columns = np.arange(edge)
    left, right = (mean[:, (columns + s).clip(0, edge - 1)] for s in (-reach, reach))
    above = mean - (left + right) / 2
    reached = ndimage.minimum_filter1d(breast[:, :edge], 2 * (reach + half) + 1, axis=1)
    above[~reached] = np.nan
    block = max(1, height // BLOCKS)
    blocks = height // block
    above = above[: blocks * block].reshape(blocks, block, edge).mean(axis=1)
    offsets = (np.arange(blocks) - (blocks - 1) / 2) * block
    best, column, slope = np.nan, np.nan, np.nan
    for tilt in TILTS:
        place = columns + np.rint(tilt * offsets).astype(int)[:, None]
        line = np.take_along_axis(above, place.clip(0, edge - 1), axis=1)
        line[(place < 0) | (place >= edge)] = np.nan
        line.sort(axis=0)  # NaN comes last
        length = np.isfinite(line).sum(axis=0)
        middle = line[np.maximum(length - 1, 0) // 2, columns]
        long = length[:positions] >= LEAST_LENGTH * blocks
        found = np.where(long, middle[:positions], -np.inf)
        if long.any() and not found.max() <= best:
            best, column, slope = float(found.max()), float(found.argmax()), float(tilt)
    return best, column, slope
