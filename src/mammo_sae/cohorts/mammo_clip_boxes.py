"""Boxes of Mammo-CLIP's table of findings, in pixels of the image files.

The table has each box twice: in pixels of the original matrix, and in pixels of the crop that is
stretched to 1520 x 912 (src/preprocessing/preprocess_VinDr_detector.py of batmanlab/Mammo-CLIP).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from mammo_sae.cohorts.columns import BOX
from mammo_sae.cohorts.sheet import Sheet, number
from mammo_sae.cohorts.source import FINDING_COLUMNS
from mammo_sae.cohorts.vindr import NO_FINDING, parse_categories, parse_size

RESIZED = [f"resized_{name}" for name in BOX]
RESIZED_HEIGHT, RESIZED_WIDTH = 1520, 912
BORDER = 5  # pixels that the preprocessing cuts off at each side

Corners = tuple[float, float, float, float]


def boxes_in_files(
    sheet: Sheet,
    image: pd.Series,
    images: pd.DataFrame,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the boxes of the findings in pixels of the image files, and counts of problems.

    Parameters
    ----------
    sheet
        The table of findings.
    image
        Source image id of each row.
    images
        source_image, rows, columns: sizes of the files.
    """
    original = _corners(sheet, BOX)
    resized = _corners(sheet, RESIZED)
    heights = sheet.parsed("height", parse_size, "a whole number of pixels")
    widths = sheet.parsed("width", parse_size, "a whole number of pixels")
    sizes = {
        name: (rows, columns)
        for name, rows, columns in zip(
            images["source_image"], images["rows"], images["columns"], strict=True
        )
    }
    found: list[tuple[Any, ...]] = []
    counts = {"findings_without_box": 0, "boxes_completed": 0}
    listed = sheet.required("finding_categories", parse_categories, "a list of known categories")
    for row, source_image in enumerate(image):
        wanted = dict.fromkeys(name for name in listed[row] or () if name != NO_FINDING)
        rows, columns = sizes.get(source_image, (None, None))
        if not wanted or pd.isna(rows):
            continue
        box, small = None, resized[row]
        if original[row] is not None and (heights[row], widths[row]) == (rows, columns):
            box = original[row]
        elif small is not None:
            box, completed = _completed(small, original[row], heights[row], widths[row])
            counts["boxes_completed"] += completed
            across, down = columns / RESIZED_WIDTH, rows / RESIZED_HEIGHT
            box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        if box is None or not (box[0] < box[2] and box[1] < box[3]):
            counts["findings_without_box"] += len(wanted)
            continue
        found.extend((source_image, category, *box) for category in wanted)
    return pd.DataFrame(found, columns=FINDING_COLUMNS), counts


def _corners(sheet: Sheet, names: Sequence[str]) -> list[Corners | None]:
    """Return each row's box, None if a corner is missing or all are 0, as for No Finding."""
    if not all(name in sheet for name in names):
        return [None] * len(sheet)
    columns = [sheet.parsed(name, number, "a number of pixels") for name in names]
    return [
        None if None in box or not any(box) else (box[0], box[1], box[2], box[3])
        for box in zip(*columns, strict=True)
    ]


def _completed(
    resized: Corners, original: Corners | None, height: int | None, width: int | None
) -> tuple[Corners, bool]:
    """Return the resized box with the part that the published script wrongly cut off.

    Also return whether a part was cut off. The script limits x by the number of rows and y by the
    number of columns (its `adjusted_bbox`). In an upright image, boxes near the lower edge
    therefore become too short, or their minimum exceeds their maximum. The height and width of the
    crop are whole numbers of pixels. A scale that gives whole numbers shows that a box was cut, and
    by how much.
    """
    if original is None or height is None or width is None:
        return resized, False
    corners, changed = list(resized), False
    for low, high, own, other, size in (
        (0, 2, width, height, RESIZED_WIDTH),
        (1, 3, height, width, RESIZED_HEIGHT),
    ):
        start = max(original[low] - BORDER, 0.0)
        stop = min(original[high] - BORDER, own - 2 * BORDER)
        limited = min(original[high] - BORDER, other - 2 * BORDER)
        if limited >= stop or limited == start:
            continue
        scale = (resized[high] - resized[low]) / (limited - start)
        if scale > 0 and _is_whole(size / scale) and _is_whole(start - resized[low] / scale):
            corners[high] = resized[low] + scale * (stop - start)
            changed = True
    return (corners[0], corners[1], corners[2], corners[3]), changed


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-3
