"""Finds the breast: the largest bright connected part of an image, without markers and noise."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

BACKGROUND_LEVELS = 64  # air around the breast lies in the darkest quarter of the grey levels
FINE = 300  # pixels of the shorter side, enough to find the breast's edge
LEAST_AREA = 0.02  # share of the image; a smaller largest part is a marker, not a breast
LEAST_CONTRAST = 5.0  # grey levels of the thinnest tissue above the background


def breast_mask(pixels: np.ndarray) -> np.ndarray:
    """Return the breast: bool [H, W], one part without holes; all False if no breast is found.

    Parameters
    ----------
    pixels
        uint8 [H, W], dark background.

    Notes
    -----
    Large images are first reduced by a whole factor. This hardly changes the accuracy of the edge,
    which is limited by the smoothing over 2 % of the width. The background is the commonest level
    of the darkest quarter of the range. Its noise is measured on the levels below it, which hold no
    tissue. An opening by about 1 % of the width detaches labels that touch the skin by a few
    pixels.
    """
    height, width = pixels.shape
    factor = max(1, min(height, width) // FINE)
    if factor > 1:
        small = breast_mask(np.asarray(Image.fromarray(pixels).reduce(factor)))
        return small.repeat(factor, axis=0).repeat(factor, axis=1)[:height, :width]
    radius = max(1, round(min(height, width) / 100))
    smooth = ndimage.uniform_filter(pixels.astype(np.float32), size=2 * radius + 1)
    counts = np.bincount(np.rint(smooth).astype(np.uint8).ravel(), minlength=256)
    background = int(counts[:BACKGROUND_LEVELS].argmax())
    darker = np.arange(background + 1)
    below = counts[: background + 1]
    noise = np.sqrt(((darker - background) ** 2 * below).sum() / max(below.sum(), 1))
    bright = smooth > background + max(LEAST_CONTRAST, 4.0 * noise)
    # Mode `nearest`: the image's edge may cut through the breast, and must not erode it.
    size = 2 * radius + 1
    opened = ndimage.maximum_filter(
        ndimage.minimum_filter(bright.view(np.uint8), size, mode="nearest"), size, mode="nearest"
    )
    labels, n = ndimage.label(opened.view(bool) & bright)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    sizes[0] = 0
    if sizes.max() < LEAST_AREA * pixels.size:
        return np.zeros(pixels.shape, dtype=bool)
    return _without_holes(labels == sizes.argmax())


def _without_holes(mask: np.ndarray) -> np.ndarray:
    """Fill holes: parts of the background that do not touch the image's edge."""
    labels, n = ndimage.label(~mask)
    outside = np.zeros(n + 1, dtype=bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        outside[edge] = True
    outside[0] = False
    return ~outside[labels]


def is_on_the_right(mask: np.ndarray) -> bool:
    """Return whether a breast mask [H, W] lies nearer to the right edge than to the left."""
    columns = mask.sum(axis=0)
    if not columns.any():
        return False
    return float((columns * np.arange(len(columns))).sum() / columns.sum()) > (len(columns) - 1) / 2
