"""Regions of a canonical image that are found in the image itself, without annotations.

They show where a latent fires besides the lesion:

- ``marker``: the largest group of bright pixels outside the breast, as in the measurement
  ``marker_area``;
- ``background``: all other pixels outside the breast;
- ``skin_line``: the pixels of the breast next to its edge;
- ``nipple``: the part of the breast near its point that is farthest from the chest wall;
- ``edge_line``: the brightest line along the chest wall, such as the edge of a paddle, if it is
  brighter than its surroundings, as in the measurement ``edge_brightness``;
- ``pectoral``: in oblique views, the corner of the breast above a straight line, chosen so that the
  corner is brighter than the tissue below the line.

Each is an estimate. An image may lack a region, and then it is not among the result.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from mammo_sae.dicom.breast import is_on_the_right
from mammo_sae.images.structures import LINE, MARGIN, brightest_line, marker_pixels

LANDMARKS = ("marker", "background", "skin_line", "nipple", "edge_line", "pectoral")
LEAST_EDGE = 10.0  # grey levels; a darker line is taken for tissue
OBLIQUE = "MLO"
NIPPLE = 1 / 20  # share of the width: radius of the nipple's region
PECTORAL_COLUMNS = 64  # width of the reduced image in which the muscle is searched
PECTORAL_TOP = np.linspace(0.10, 0.70, 25)  # where the line meets the top, share of the width
PECTORAL_WALL = np.linspace(0.20, 0.90, 29)  # where it meets the chest wall, share of the height
PECTORAL_SLOPES = 0.25, 1.0  # tangents of the angle between the line and the chest wall
PECTORAL_BAND = 0.06  # share of the width: strips on both sides of the line that are compared
LEAST_PECTORAL = 5.0  # grey levels between the two strips


def landmarks(pixels: np.ndarray, breast: np.ndarray, view: str) -> dict[str, np.ndarray]:
    """Return the regions of one image by name, bool [H, W]; those that it lacks are left out.

    Parameters
    ----------
    pixels
        uint8 [H, W], dark background.
    breast
        bool [H, W], True inside the breast.
    view
        Only ``MLO`` images have a pectoral muscle.
    """
    if not breast.any():
        return {}
    flipped = is_on_the_right(breast)
    if flipped:
        pixels, breast = pixels[:, ::-1], breast[:, ::-1]
    grey = pixels.astype(np.int16)
    margin = max(1, round(MARGIN * grey.shape[1]))
    off = ~ndimage.maximum_filter(breast, 2 * margin + 1, mode="nearest")
    marker = marker_pixels(pixels, off, float(grey[breast].mean()), margin)
    found = {
        "marker": marker,
        "background": ~breast & ~marker,
        "skin_line": breast & ~ndimage.minimum_filter(breast, 2 * margin + 1, mode="nearest"),
        "nipple": _nipple(breast),
        "edge_line": _edge_line(grey, breast),
    }
    if view == OBLIQUE:
        found["pectoral"] = _pectoral(grey, breast)
    return {name: mask[:, ::-1] if flipped else mask for name, mask in found.items() if mask.any()}


def _nipple(breast: np.ndarray) -> np.ndarray:
    """Return the breast within a disc around its point farthest from the left edge."""
    rows, columns = np.nonzero(breast)
    tip = columns.max()
    row = np.median(rows[columns == tip])
    y, x = np.ogrid[: breast.shape[0], : breast.shape[1]]
    return breast & (np.hypot(y - row, x - tip) <= NIPPLE * breast.shape[1])


def _edge_line(grey: np.ndarray, breast: np.ndarray) -> np.ndarray:
    difference, column, slope = brightest_line(grey, breast)
    if not difference >= LEAST_EDGE:
        return np.zeros_like(breast)
    height, width = grey.shape
    y, x = np.ogrid[:height, :width]
    half = max(1, round(LINE * width))
    return breast & (np.abs(x - column - slope * (y - (height - 1) / 2)) <= half)


def _pectoral(grey: np.ndarray, breast: np.ndarray) -> np.ndarray:
    """Return the corner of the breast above the line of largest contrast.

    A line meets the top of the image and the chest wall (the left edge). Its contrast is the mean
    grey level of the strip above it minus that of the strip below it. The muscle's edge is the only
    long straight edge in this corner, so lines are searched for, as in the Hough transform of
    Karssemeijer (Phys Med Biol 43:365, 1998).
    """
    height, width = grey.shape
    factor = max(1, width // PECTORAL_COLUMNS)
    rows, columns = height // factor, width // factor
    shape = rows, factor, columns, factor
    cut = slice(rows * factor), slice(columns * factor)
    small = grey[cut].reshape(shape).mean(axis=(1, 3), dtype=np.float32)
    inside = breast[cut].reshape(shape).all(axis=(1, 3))
    y, x = np.nonzero(inside)
    values = small[inside]
    top, wall = (line.ravel() for line in np.meshgrid(PECTORAL_TOP, PECTORAL_WALL))
    top, wall = top * columns, wall * rows
    steep = (top / wall >= PECTORAL_SLOPES[0]) & (top / wall <= PECTORAL_SLOPES[1])
    top, wall = top[steep], wall[steep]
    depth = 1 - np.outer(1 / top, x + 0.5) - np.outer(1 / wall, y + 0.5)
    depth /= np.hypot(1 / top, 1 / wall)[:, None]  # distance from the line, in pixels
    band = max(1.5, PECTORAL_BAND * columns)
    above, below = (depth > 0) & (depth <= band), (depth <= 0) & (depth > -band)
    sizes = above.sum(axis=1), below.sum(axis=1)
    means = [
        np.divide(strip @ values, size, out=np.zeros(len(top)), where=size > 0)
        for strip, size in zip((above, below), sizes, strict=True)
    ]
    usable = (sizes[0] >= rows / 8) & (sizes[1] >= rows / 8)
    contrast = np.where(usable, means[0] - means[1], -np.inf)
    best = int(contrast.argmax())
    if contrast[best] < LEAST_PECTORAL:
        return np.zeros_like(breast)
    rows_, columns_ = np.ogrid[:height, :width]
    line = 1 - (columns_ + 0.5) / (top[best] * factor) - (rows_ + 0.5) / (wall[best] * factor)
    return breast & (line > 0)
