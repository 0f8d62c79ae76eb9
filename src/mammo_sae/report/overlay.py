"""Draws images, masks and maps in one coordinate system.

The unit is the canonical pixel, and pixel edges lie on whole numbers: pixel (y, x) covers
[y, y + 1) x [x, x + 1). The grid's stride and offset place a layer's cells. A map is never
stretched over the image, since a grid of ceil(H / stride) rows does not end at the image's edge.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.patches import Rectangle

from mammo_sae.grids import LayerGrid

# Warm, light colours: visible on grey tissue, and different from all outlines' colours.
HEAT = LinearSegmentedColormap.from_list("heat", ["#B3261E", "#E8590C", "#FFA94D", "#FFF3BF"])

# The colour and dashes of artefacts, which no concept has.
ARTEFACT = "#FFD43B"
DASHES = (0, (2.5, 1.5))


def grid_extent(grid: LayerGrid) -> tuple[float, float, float, float]:
    """Return (left, right, bottom, top) of a layer's whole grid in canonical pixels, y downwards.

    The order is that of matplotlib's `extent`. The grid may reach beyond the image.
    """
    return (
        grid.offset_x,
        grid.offset_x + grid.columns * grid.stride,
        grid.offset_y + grid.rows * grid.stride,
        grid.offset_y,
    )


def draw_image(ax: Axes, pixels: np.ndarray) -> None:
    """Show an image [H, W] uint8 in canonical pixels, without axes."""
    height, width = pixels.shape
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    frame(ax, height, width)


def frame(ax: Axes, height: int, width: int) -> None:
    """Bound the axes by an image of height x width pixels and hide ticks."""
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def draw_map(ax: Axes, activation: np.ndarray, top: float, grid: LayerGrid) -> None:
    """Draw a latent's map [R, C] over an image, one block per cell; 0 is transparent.

    `top` is the activation with the strongest colour.
    """
    ax.imshow(
        heat(activation, top),
        extent=grid_extent(grid),
        interpolation="nearest",
        aspect="auto",
    )


def heat(activation: np.ndarray, top: float, colours: Colormap = HEAT) -> np.ndarray:
    """Return RGBA [..., 4] of activations. Colour and opacity both grow from 0 to `top`."""
    share = np.clip(activation / top, 0, 1) if top > 0 else np.zeros_like(activation)
    result = colours(share)
    result[..., 3] = np.where(share > 0, 0.35 + 0.5 * share, 0)
    return result


def outline(ax: Axes, mask: np.ndarray, colour: str, *, width: float = 0.9) -> None:
    """Draw the border of a mask [H, W], closed along the image's edge."""
    if not mask.any():
        return
    height, columns = mask.shape
    ax.contour(
        np.arange(-1, columns + 1) + 0.5,
        np.arange(-1, height + 1) + 0.5,
        np.pad(mask, 1).astype(np.float32),
        levels=[0.5],
        colors=[colour],
        linewidths=width,
    )


def box(ax: Axes, mask: np.ndarray, colour: str) -> None:
    """Draw a dashed box around a mask [H, W], for artefacts whose shape an outline would hide."""
    if not mask.any():
        return
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    margin = mask.shape[0] / 128
    corner = (left - margin, top - margin)
    size = (right - left + 1 + 2 * margin, bottom - top + 1 + 2 * margin)
    ax.add_patch(
        Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=0.8, linestyle=DASHES)
    )
