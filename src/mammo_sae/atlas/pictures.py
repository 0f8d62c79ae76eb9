"""Canonical images of the atlas as grey WebP files, and what is known of each image.

The name of a file is the image's pseudonym. Outlines of lesions and heat maps are never drawn into
a picture: the page draws them above it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mammo_sae.stores.images import ImageReader

IMAGES_PER_BLOCK = 16
# WebP's scale ends at 100. On 12 phantom images, grey levels differ from the stored ones by 0.9 of
# 255 in the mean and by 11 at most, and a lossless file is 2.8 times as large.
QUALITY = 90
# Facts that a page shows of an image. Of the patient it has the pseudonym alone.
FACTS = ("patient_id", "split", "view", "side", "density", "birads", "age_bin", "manufacturer")


def boxes(masks: np.ndarray, regions: Sequence[str]) -> dict[str, list[int]]:
    """Return region -> [left, top, right, bottom] in pixels, of masks bool [r, H, W].

    The right and bottom edges lie behind the last pixel. Regions that the image lacks are left out.
    """
    found = {}
    for region, mask in zip(regions, masks, strict=True):
        if mask.any():
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            found[region] = [int(edge) for edge in edges]
    return found


def blocks(image_ids: Sequence[str]) -> Iterator[list[str]]:
    """Yield `image_ids` in blocks that fit into memory."""
    for start in range(0, len(image_ids), IMAGES_PER_BLOCK):
        yield list(image_ids[start : start + IMAGES_PER_BLOCK])


def write_pictures(
    store: ImageReader, image_ids: Sequence[str], folder: Path, room: int
) -> set[str]:
    """Write `<image_id>.webp` for the images in `folder`, until they have `room` bytes together.

    Returns
    -------
    set
        The images that were written: the first of `image_ids`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: set[str] = set()
    for block in blocks(image_ids):
        for image, pixels in zip(block, store.pixels(block), strict=True):
            data = webp(pixels)
            room -= len(data)
            if room < 0:
                return written
            (folder / f"{image}.webp").write_bytes(data)
            written.add(image)
    return written


def webp(pixels: np.ndarray) -> bytes:
    """Return an image, uint8 [H, W], as a WebP file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="webp", quality=QUALITY, method=4)
    return file.getvalue()


def describe(
    store: ImageReader,
    cases: pd.DataFrame,
    concepts: Sequence[str],
    image_ids: Sequence[str],
    stored: Collection[str],
    pages: Collection[str],
) -> dict[str, dict[str, Any]]:
    """Return image -> its facts, its labels by concept, and the boxes of its regions.

    `stored` are the images whose picture the atlas has, and `pages` those that have a page.
    """
    known = cases.drop_duplicates("image_id").set_index("image_id")
    columns = [name for name in FACTS if name in known]
    labels = [name for name in concepts if name in known]
    found: dict[str, dict[str, Any]] = {}
    for block in blocks(image_ids):
        masks = store.region_masks(block)
        for i, image in enumerate(block):
            row = known.loc[image]
            found[image] = {
                "facts": {name: None if pd.isna(row[name]) else str(row[name]) for name in columns},
                "labels": {name: None if pd.isna(row[name]) else int(row[name]) for name in labels},
                "boxes": boxes(masks[i], store.regions),
                "stored": image in stored,
                "page": image in pages,
            }
    return found
