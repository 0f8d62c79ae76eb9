"""Heat maps as small grids of bytes, one byte per cell, which the page draws on a canvas."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mammo_sae.grids import LayerGrid
from mammo_sae.stores.codes import CodesReader

IMAGES_PER_BLOCK = 16


def grid_of(grid: LayerGrid) -> dict[str, float]:
    """Return where a layer's cells lie on the canonical image, in pixels."""
    return {
        "rows": grid.rows,
        "columns": grid.columns,
        "stride": grid.stride,
        "y": grid.offset_y,
        "x": grid.offset_x,
    }


def packed(activation: np.ndarray, top: float) -> str:
    """Return a map [R, C] as text: a letter and base64, in the shorter of two forms.

    `d`: one byte per cell, row by row. `s`: three bytes per active cell, which are its number (low
    byte first) and its level. Level 0 is an inactive cell. An active cell has at least 1, and 255
    is an activation of `top` or more.
    """
    share = np.clip(activation / top, 0, 1) if top > 0 else np.zeros_like(activation)
    levels = np.where(activation > 0, np.maximum(1, np.round(255 * share)), 0).astype(np.uint8)
    active = np.flatnonzero(levels)
    if 3 * len(active) >= levels.size or levels.size > 1 << 16:
        return "d" + base64.b64encode(levels.tobytes()).decode("ascii")
    cells = np.stack([active & 255, active >> 8, levels.ravel()[active]], axis=1)
    return "s" + base64.b64encode(cells.astype(np.uint8).tobytes()).decode("ascii")


def read_maps(
    reader: CodesReader, wanted: Mapping[int, Sequence[int]]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (position, latent, map [R, C]) for position of an image -> its latents.

    Images are read in blocks, each once.
    """
    positions = sorted(position for position, latents in wanted.items() if latents)
    for start in range(0, len(positions), IMAGES_PER_BLOCK):
        block = positions[start : start + IMAGES_PER_BLOCK]
        latents = sorted({latent for position in block for latent in wanted[position]})
        maps = reader.maps(block, latents)
        place = {latent: i for i, latent in enumerate(latents)}
        for i, position in enumerate(block):
            for latent in sorted(set(wanted[position])):
                yield position, latent, maps[i, place[latent]]
