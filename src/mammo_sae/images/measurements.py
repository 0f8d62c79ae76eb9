"""Step: measure the canonical images of a shard, for archives whose headers lack these properties.

The measurements are candidate confounders (`mammo_sae.analysis.candidates`). Lengths and areas are
in canonical pixels. Grey levels are those of the canonical image, 0 to 255. Each image is measured
with the breast on the left, so a mirrored image gives the same numbers:

- ``marker_area``: number of pixels in the largest group of bright pixels outside the breast;
- ``edge_brightness``: grey level of the brightest line along the chest wall, such as the edge of a
  paddle, minus that of the strips next to it;
- ``mean_grey``: mean grey level of the breast;
- ``noise``: standard deviation of the noise in the breast, in grey levels (Immerkaer 1996);
- ``sharpness``: mean square of the Laplacian, divided by the variance of the grey levels, both in
  the breast;
- ``breast_area``: number of pixels of the breast;
- ``density_estimate``: share of the breast above Otsu's threshold (1979); it is not a BI-RADS
  category.

A measurement that is not possible is NaN, and ``reason`` gives the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from mammo_sae.dicom.breast import is_on_the_right
from mammo_sae.images.structures import MARGIN, brightest_line, marker_pixels
from mammo_sae.progress import progress
from mammo_sae.stores.images import IMAGES_PER_SHARD, ImageReader
from mammo_sae.stores.tables import write_table

MEASUREMENTS = (
    "marker_area",
    "edge_brightness",
    "mean_grey",
    "noise",
    "sharpness",
    "breast_area",
    "density_estimate",
)
NO_BREAST = "no breast was found"
NO_BACKGROUND = "almost no part of the image lies outside the breast"
NO_EDGE = "the breast covers too little of the chest wall"
NO_INSIDE = "the breast is too narrow"
FLAT = "the breast has one grey level"

LEAST_BACKGROUND = 0.01  # share of the image
KEPT = 0.9  # share of the responses that are used; the highest come from calcifications and edges
# Mean of |z| over the lowest KEPT of |z|, for a standard normal z: sqrt(2 / pi) (1 - exp(-q^2 / 2))
# / KEPT with the quantile q = 1.645.
KEPT_MEAN = 0.65735


def run(*, image_stores: Sequence[Path], output: Path) -> list[Path]:
    """Measure images: a row per image. A measurement that is not possible is NaN, with a reason.

    Parameters
    ----------
    image_stores
        Manifests of the canonical images to measure.
    output
        Table to write (.parquet).

    Raises
    ------
    StoreError
        If a store is missing or damaged.
    """
    reader = ImageReader(image_stores)
    ids = reader.image_ids
    rows = []
    starts = range(0, len(ids), IMAGES_PER_SHARD)
    for start in progress(starts, total=len(starts), label="measurements"):
        chunk = ids[start : start + IMAGES_PER_SHARD]
        for image_id, pixels, breast in zip(
            chunk, reader.pixels(chunk), reader.breast(chunk), strict=True
        ):
            values, reasons = measure(pixels, breast)
            rows.append((image_id, *values.values(), "; ".join(reasons)))
    table = pd.DataFrame(rows, columns=["image_id", *MEASUREMENTS, "reason"])
    types = dict.fromkeys(MEASUREMENTS, "float64") | {"image_id": "string", "reason": "string"}
    # Fewer digits make shorter names of levels.
    write_table(table.astype(types).round(4), output)
    return [output]


def measure(pixels: np.ndarray, breast: np.ndarray) -> tuple[dict[str, float], list[str]]:
    """Return the measurements of one image by name, and the reasons for those that are NaN.

    Parameters
    ----------
    pixels
        uint8 [H, W], dark background.
    breast
        bool [H, W], True inside the breast.
    """
    values = dict.fromkeys(MEASUREMENTS, np.nan)
    if not breast.any():
        return values, [NO_BREAST]
    if is_on_the_right(breast):
        pixels, breast = pixels[:, ::-1], breast[:, ::-1]
    grey = pixels.astype(np.int16)
    margin = max(1, round(MARGIN * grey.shape[1]))
    # Mode `nearest`, because the breast continues beyond the image's edge.
    inside = ndimage.minimum_filter(breast, 2 * margin + 1, mode="nearest")
    off = ~ndimage.maximum_filter(breast, 2 * margin + 1, mode="nearest")
    values["breast_area"] = float(breast.sum())
    values["mean_grey"] = float(grey[breast].mean())
    values["marker_area"] = _marker_area(pixels, off, values["mean_grey"], margin)
    values["edge_brightness"] = brightest_line(grey, breast)[0]
    values["noise"] = _noise(grey, inside)
    values["sharpness"] = _sharpness(grey, inside)
    values["density_estimate"] = _share_above_otsu(pixels[inside])
    reasons = []
    if np.isnan(values["marker_area"]):
        reasons.append(NO_BACKGROUND)
    if np.isnan(values["edge_brightness"]):
        reasons.append(NO_EDGE)
    if np.isnan(values["noise"]):
        reasons.append(NO_INSIDE)
    elif np.isnan(values["sharpness"]):
        reasons.append(FLAT)
    return values, reasons


def _marker_area(pixels: np.ndarray, off: np.ndarray, level: float, gap: int) -> float:
    """Return the number of `marker_pixels`, and NaN if the image has almost no background."""
    if off.sum() < LEAST_BACKGROUND * off.size:
        return np.nan
    return float(marker_pixels(pixels, off, level, gap).sum())


def _noise(grey: np.ndarray, inside: np.ndarray) -> float:
    """Return the standard deviation of the noise, in grey levels; NaN if `inside` is empty.

    Immerkaer (Comput Vis Image Underst 64:300, 1996): the mask [1 -2 1] in both directions removes
    structure, and multiplies the standard deviation of white noise by 6.
    """
    rows = grey[:-2] - 2 * grey[1:-1] + grey[2:]
    response = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    kept = _lowest(np.abs(response[inside[1:-1, 1:-1]]))
    return float(kept.mean() / (6 * KEPT_MEAN)) if len(kept) else np.nan


def _sharpness(grey: np.ndarray, inside: np.ndarray) -> float:
    """Return the mean square of the Laplacian, divided by the variance of the grey levels.

    NaN if `inside` is empty, or has one grey level.
    """
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    here = inside[1:-1, 1:-1]
    if not here.any() or np.ptp(middle[here]) == 0:
        return np.nan
    kept = _lowest(np.abs(laplacian[here])).astype(np.float64)
    return float((kept**2).mean() / middle[here].var())


def _lowest(values: np.ndarray) -> np.ndarray:
    """Return the lowest values of `values` [n]: the share `KEPT` of them."""
    count = round(KEPT * len(values))
    return np.partition(values, count - 1)[:count] if count else values[:0]


def _share_above_otsu(values: np.ndarray) -> float:
    """Return the share of uint8 values [n] above the threshold that best divides them in two.

    Otsu (IEEE Trans Syst Man Cybern 9:62, 1979): the threshold with the largest variance between
    the two classes. The result is NaN if all values are equal.
    """
    counts = np.bincount(values, minlength=256).astype(np.float64)
    below = counts.cumsum()
    above = below[-1] - below
    total = (counts * np.arange(256)).cumsum()
    both = below * above
    if not both.any():
        return np.nan
    difference = total * below[-1] - total[-1] * below
    between = np.divide(difference**2, both, out=np.zeros(256), where=both > 0)
    return float(above[between.argmax()] / below[-1])
