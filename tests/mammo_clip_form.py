"""Convert a folder with VinDr-Mammo's layout into the output of Mammo-CLIP's preprocessing.

This is a separate implementation of the published scripts (batmanlab/Mammo-CLIP,
src/preprocessing). It does not use the package's reader or conversion.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from PIL import Image

BORDER = 5
FINDINGS = (
    "Architectural Distortion",
    "Asymmetry",
    "Focal Asymmetry",
    "Global Asymmetry",
    "Mass",
    "Nipple Retraction",
    "No Finding",
    "Skin Retraction",
    "Skin Thickening",
    "Suspicious Calcification",
    "Suspicious Lymph Node",
)


def write_mammo_clip_form(
    vindr: Path, folder: Path, *, height: int = 1520, width: int = 912
) -> None:
    """Write `images_png/<patient_id>/<image_id>.png` and `vindr_detection_v1_folds.csv`.

    Parameters
    ----------
    vindr
        A folder with VinDr-Mammo's layout, like a part of the phantom: DICOM files and two tables.
    folder
        The folder to write.
    height, width
        Size of the PNGs. The table's `resized_` columns are always in pixels of 1520 x 912, as in
        the published table.
    """
    breasts = pd.read_csv(vindr / "breast-level_annotations.csv").set_index("image_id")
    findings = pd.read_csv(vindr / "finding_annotations.csv")
    crops = {}
    for image, breast in breasts.iterrows():
        grey, crop = preprocessed(vindr / "images" / breast["study_id"] / f"{image}.dicom")
        crops[image] = (grey.shape, crop)
        path = folder / "images_png" / breast["study_id"] / f"{image}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        left, top, right, bottom = crop
        part = grey[top:bottom, left:right].astype(float)
        resized = _averaged(_averaged(part, height).T, width).T
        Image.fromarray(np.rint(resized).astype(np.uint8)).save(path)
    rows = [
        _row(finding, breasts.loc[finding["image_id"]], crops) for _, finding in findings.iterrows()
    ]
    pd.DataFrame(rows).to_csv(folder / "vindr_detection_v1_folds.csv", index=False)


def preprocessed(path: Path) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Return the 8-bit image without its border, and (left, top, right, bottom) of the breast."""
    dataset = pydicom.dcmread(path)
    data = dataset.pixel_array.astype(float)
    data = data * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    data = data[BORDER:-BORDER, BORDER:-BORDER]
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        data = data.max() - data
    data = data - data.min()
    grey = (data / data.max() * 255).astype(np.uint8)
    cleared = np.where(grey <= 40, 0, grey)
    left, right = _longest_run(_middle(cleared).std(axis=0) != 0)
    top, bottom = _longest_run(_middle(cleared[:, left:right].T).std(axis=0) != 0)
    return grey, (left, top, right, bottom)


def _middle(image: np.ndarray) -> np.ndarray:
    rows = image.shape[0]
    return image[rows // 2 - int(rows * 0.4) : rows // 2 + int(rows * 0.4)]


def _longest_run(flags: np.ndarray) -> tuple[int, int]:
    """Return [start, stop) of the longest run. The script counts a run at an end one shorter."""
    runs, start = [], None
    for position, flag in enumerate([*flags, False]):
        if flag and start is None:
            start = position
        elif not flag and start is not None:
            at_an_end = (start == 0) + (position == len(flags))
            runs.append((position - start - at_an_end, -start, (start, position)))
            start = None
    return max(runs)[2]


def _averaged(image: np.ndarray, rows: int) -> np.ndarray:
    """Return [rows, columns]: the mean over each row's share of the image's height.

    This is the result of OpenCV's INTER_AREA if both sides shrink or both grow.
    """
    sums = np.vstack([np.zeros(image.shape[1]), np.cumsum(image, axis=0)])
    edges = np.linspace(0, len(image), rows + 1)
    whole = np.minimum(edges.astype(int), len(image) - 1)
    at_edges = sums[whole] + (edges - whole)[:, None] * image[whole]
    return np.diff(at_edges, axis=0) * rows / len(image)


def _row(finding: pd.Series, breast: pd.Series, crops: dict) -> dict[str, object]:
    categories = ast.literal_eval(finding["finding_categories"])
    box = finding[["xmin", "ymin", "xmax", "ymax"]].astype(float).tolist()
    row = {
        "patient_id": breast["study_id"],
        "series_id": breast["series_id"],
        "image_id": f"{finding['image_id']}.png",
        "laterality": breast["laterality"],
        "view": breast["view_position"],
        "height": breast["height"],
        "width": breast["width"],
        "breast_birads": breast["breast_birads"],
        "breast_density": breast["breast_density"],
        "finding_categories": finding["finding_categories"],
        "finding_birads": finding["finding_birads"],
        **dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)),
        "split": breast["split"],
        **dict(zip(
            ("resized_xmin", "resized_ymin", "resized_xmax", "resized_ymax"),
            published_box(box, *crops[finding["image_id"]]),
            strict=True,
        )),
        "fold": 0 if breast["split"] == "test" else 1,
        **{name.replace(" ", "_"): int(name in categories) for name in FINDINGS},
    }  # fmt: skip
    density = breast["breast_density"]
    row["density"] = "ABCD".index(density[-1]) if isinstance(density, str) else np.nan
    return row


def published_box(
    box: list[float], inner: tuple[int, int], crop: tuple[int, int, int, int]
) -> list[float]:
    """Return a box in 1520 x 912 as the published script maps it, including its swapped axes.

    `inner` is the size of the image without its border, `crop` (left, top, right, bottom) in it.
    """
    if np.isnan(box).any():
        return [np.nan] * 4
    left, top, right, bottom = crop
    limited = [
        max(0, box[0] - BORDER),
        max(0, box[1] - BORDER),
        min(inner[0], box[2] - BORDER),
        min(inner[1], box[3] - BORDER),
    ]
    across, down = 912 / (right - left), 1520 / (bottom - top)
    return [
        (limited[0] - left) * across,
        (limited[1] - top) * down,
        (limited[2] - left) * across,
        (limited[3] - top) * down,
    ]
