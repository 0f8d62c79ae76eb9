"""Outlines of the breast and of annotated regions, as transparent pictures above an image.

A picture of outlines has the size of the image, one colour per region, and no grey level of the
image. The page lays it above the picture and can hide it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from mammo_sae.atlas.pictures import blocks
from mammo_sae.stores.images import ImageReader

BREAST = "breast"
BREAST_COLOUR = "#ced4da"
ROWS_PER_PIXEL = 500  # the width of a line grows by a pixel with so many rows


def edge(mask: np.ndarray, width: int) -> np.ndarray:
    """Return the pixels of a mask, bool [H, W], that are at most `width` steps from its outside.

    What lies beyond the border of the image is not outside, so no line follows the border.
    """
    inner = mask
    for _ in range(width):
        wide = np.pad(inner, 1, mode="edge")
        inner = inner & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask & ~inner


def outlines(masks: Mapping[str, np.ndarray], colours: Mapping[str, str]) -> bytes:
    """Return the outlines of masks, bool [H, W] each, as a PNG file; later ones lie above.

    Parameters
    ----------
    masks
        Name -> mask.
    colours
        Name -> colour, `#rrggbb`.
    """
    shape = next(iter(masks.values())).shape
    number = np.zeros(shape, np.uint8)
    palette = [0, 0, 0]
    for place, (name, mask) in enumerate(masks.items(), 1):
        palette += bytes.fromhex(colours[name].removeprefix("#"))
        if mask.any():
            number[edge(mask, max(1, shape[0] // ROWS_PER_PIXEL))] = place
    picture = Image.fromarray(number)
    picture.putpalette(palette)
    file = BytesIO()
    picture.save(file, format="png", transparency=0, optimize=True)
    return file.getvalue()


def read_outlines(
    store: ImageReader, image_ids: Sequence[str], colours: Mapping[str, str]
) -> list[bytes]:
    """Return the outlines of images, as PNG files: of the breast, and of each region."""
    breasts, regions = store.breast(image_ids), store.region_masks(image_ids)
    return [
        outlines({BREAST: breast, **dict(zip(store.regions, masks, strict=True))}, colours)
        for breast, masks in zip(breasts, regions, strict=True)
    ]


def write_outlines(
    store: ImageReader, image_ids: Sequence[str], colours: Mapping[str, str], folder: Path
) -> None:
    """Write `<image_id>.png` into `folder` for each image."""
    folder.mkdir(parents=True, exist_ok=True)
    for block in blocks(image_ids):
        for image, data in zip(block, read_outlines(store, block, colours), strict=True):
            (folder / f"{image}.png").write_bytes(data)
