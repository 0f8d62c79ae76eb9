"""VinDr-Mammo as Mammo-CLIP's preprocessing leaves it: PNGs, and one table of its findings.

::

    images_png/<patient_id>/<image_id>.png
    vindr_detection_v1_folds.csv     one row per finding
    clip_vindr_final.csv             in its place: one row per breast, no boxes

A patient is a study. In the first table `height`, `width`, `xmin` to `ymax` are of the original
matrix, `resized_xmin` to `resized_ymax` of an image of 1520 x 912 pixels, whatever the size of the
file: the crop is stretched to it (src/preprocessing of batmanlab/Mammo-CLIP).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_sae.cohorts.image_files import Listings
from mammo_sae.cohorts.sheet import Sheet, number
from mammo_sae.cohorts.source import Keep, SourceCohort, SourceFiles
from mammo_sae.cohorts.tables import BOX, SPLITS
from mammo_sae.cohorts.vindr import (
    CATEGORIES,
    CLASSES,
    check_categories,
    parse_birads,
    parse_categories,
    parse_density,
    parse_size,
)
from mammo_sae.errors import InputError

FOLDS = "vindr_detection_v1_folds.csv"
FINAL = "clip_vindr_final.csv"
TABLES = (FOLDS, FINAL)
"""Files that `read_folder` reads, the first of them that is there."""
PATTERN = "images_png/*/*"
"""Where images lie."""
RESIZED = [f"resized_{name}" for name in BOX]
RESIZED_HEIGHT, RESIZED_WIDTH = 1520, 912
BORDER = 5  # pixels that the preprocessing cuts off each side
FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
SIDES = {"L": "L", "R": "R"}
VIEWS = {"CC": "CC", "MLO": "MLO"}


def read_folder(
    folder: Path,
    concepts: Mapping[str, str],
    covariates: Mapping[str, str],
    split: str | None = None,
    keep: Keep | None = None,
) -> SourceCohort:
    """Read the table of a folder and the sizes of its images.

    Parameters
    ----------
    folder
        The folder that holds `images_png`.
    concepts
        Concept name -> as of `mammo_sae.cohorts.vindr.read_folder`. An image is positive if any
        of its rows is.
    covariates
        Covariate name -> column of the table, of an image's first row.
    split
        The split of all images, instead of what the table says.
    keep
        Which patients to read; all without it.

    Raises
    ------
    InputError
        Naming the missing file, or the file, line and column that is malformed.
    """
    check_categories(concepts)
    sheet = _table(folder).only("patient_id", keep)
    if sheet.path.name == FINAL:
        return _read_breasts(folder, sheet, concepts, covariates, split)
    return _read_findings(folder, sheet, concepts, covariates, split)


def locate_folder(folder: Path, keep: Keep | None = None) -> dict[str, SourceFiles]:
    """Return the files of the images of a folder by source image id; they need not exist.

    Raises
    ------
    InputError
        If the table is missing or malformed.
    """
    sheet = _table(folder).only("patient_id", keep)
    listings = Listings()
    if sheet.path.name == FINAL:
        shown = [
            (image, patient, f"{side}\t{view}")
            for _, patient, side, view, image, _ in _breasts(sheet)
        ]
    else:
        categories = [name.replace(" ", "_") for name in sorted(CATEGORIES)]
        columns = ["laterality", "view", "height", "width", "finding_categories", *categories]
        cells = sheet.cells([*columns, *BOX, *RESIZED])
        shown = list(zip(_image_ids(sheet), sheet.ids("patient_id"), cells, strict=True))
    found: dict[str, SourceFiles] = {}
    for image, patient, text in shown:
        before = [found[image].annotation] if image in found else []
        in_patient = folder / "images_png" / patient
        found[image] = SourceFiles(
            dicom=listings.find(in_patient, image) or in_patient / f"{image}.png",
            patient=patient,
            annotation="\n".join([*before, text]),
        )
    return found


def _table(folder: Path) -> Sheet:
    for name in TABLES:
        if (folder / name).is_file():
            return Sheet(folder / name)
    raise InputError(f"{folder} has neither {FOLDS} nor {FINAL}; the cohort needs one of them")


def _image_ids(sheet: Sheet) -> list[str]:
    """Return image ids as VinDr-Mammo has them; this table adds the suffix of the file."""
    return [_without_suffix(image) for image in sheet.ids("image_id")]


def _without_suffix(image: str) -> str:
    return image.removesuffix(".png")


# One row per finding.


def _read_findings(
    folder: Path,
    sheet: Sheet,
    concepts: Mapping[str, str],
    covariates: Mapping[str, str],
    split: str | None,
) -> SourceCohort:
    from mammo_sae.cohorts.facts import header_columns  # what only locates files needs no pydicom

    rows = pd.DataFrame(
        {
            "source_image": _image_ids(sheet),
            "source_patient": sheet.ids("patient_id"),
            "split": [split] * len(sheet)
            if split
            else sheet.chosen("split", {name: name for name in SPLITS}),
            "view": sheet.chosen("view", VIEWS),
            "side": sheet.chosen("laterality", SIDES),
            "density": sheet.parsed("breast_density", parse_density, "'DENSITY A' to 'DENSITY D'"),
            "birads": sheet.parsed("breast_birads", parse_birads, "'BI-RADS 0' to 'BI-RADS 6'"),
        }
    )
    first = ~rows["source_image"].duplicated()
    _check_rows_agree(sheet, rows)
    for name, column in covariates.items():
        rows[name] = sheet.typed(column)
    labels = _labels(sheet, rows, concepts)
    images = rows[first].reset_index(drop=True)
    per_image = labels.groupby(rows["source_image"])
    # A class that the table leaves open is open for the image too.
    positive = per_image.max().reindex(images["source_image"])
    for concept in concepts:
        images[concept] = positive[concept].astype("Int8").to_numpy()
    located = locate_folder(folder, set(images["source_patient"]).__contains__)
    headers = header_columns([located[image].dicom for image in images["source_image"]])
    images = images.assign(**headers)
    boxes, counts = _boxes(sheet, rows["source_image"], images, labels, concepts)
    return SourceCohort(images, boxes, counts, _finding_rows(labels, rows["source_image"]))


def _check_rows_agree(sheet: Sheet, rows: pd.DataFrame) -> None:
    """Refuse a row that says something else of its image than the image's first row."""
    columns = {"source_patient": "patient_id", "view": "view", "side": "laterality"}
    for name, column in {**columns, "split": "split"}.items():
        expected = rows.groupby("source_image")[name].transform("first")
        for row in rows.index[rows[name] != expected][:1]:
            sheet.refuse(int(row), column, "differs from an earlier row of the same image")


def _labels(sheet: Sheet, rows: pd.DataFrame, concepts: Mapping[str, str]) -> pd.DataFrame:
    """Return each row's label, Int8 [rows, concepts]: 1, 0, or NA where it is open."""
    said = "finding_categories"
    listed = sheet.required(said, parse_categories, "a list of known categories")
    labels = pd.DataFrame(index=rows.index)
    for concept, category in concepts.items():
        column = category.replace(" ", "_")
        if category in CLASSES:
            name, value = CLASSES[category]
            labels[concept] = [None if pd.isna(v) else int(v == value) for v in rows[name]]
        elif column in sheet:  # what the published code scores
            labels[concept] = sheet.chosen(column, FLAGS)
            for row in (labels[concept] != [int(category in names) for names in listed]).pipe(
                lambda differs: labels.index[differs]
            )[:1]:
                sheet.refuse(int(row), column, f"contradicts the row's {said}")
        else:
            labels[concept] = [int(category in names) for names in listed]
    return labels.astype("Int8")


def _finding_rows(labels: pd.DataFrame, image: pd.Series) -> pd.DataFrame:
    """Return source_image, concept, and how many of its rows are `positive` of how many `rows`."""
    long = labels.assign(source_image=image).melt(
        "source_image", var_name="concept", value_name="label"
    )
    grouped = long.groupby(["source_image", "concept"], sort=False)["label"]
    counted = grouped.agg(rows="count", positive="sum").reset_index()
    return counted.astype({"rows": "Int32", "positive": "Int32"})


def _boxes(
    sheet: Sheet,
    image: pd.Series,
    images: pd.DataFrame,
    labels: pd.DataFrame,
    concepts: Mapping[str, str],
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the boxes in pixels of the files, and what was counted."""
    original = _corners(sheet, BOX)
    resized = _corners(sheet, RESIZED)
    heights = sheet.parsed("height", parse_size, "a whole number of pixels")
    widths = sheet.parsed("width", parse_size, "a whole number of pixels")
    sizes = images.set_index("source_image")[["rows", "columns"]]
    found: list[tuple] = []
    counts = {"findings_without_box": 0, "boxes_completed": 0}
    localised = [concept for concept in concepts if concepts[concept] not in CLASSES]
    for row, source_image in enumerate(image):
        wanted = [concept for concept in localised if labels.at[row, concept] == 1]
        rows, columns = sizes.loc[source_image]
        if not wanted or pd.isna(rows):
            continue
        box = None
        if original[row] is not None and (heights[row], widths[row]) == (rows, columns):
            box = original[row]
        elif resized[row] is not None:
            box, completed = _completed(resized[row], original[row], heights[row], widths[row])
            counts["boxes_completed"] += completed
            across, down = columns / RESIZED_WIDTH, rows / RESIZED_HEIGHT
            box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        if box is None or not (box[0] < box[2] and box[1] < box[3]):
            counts["findings_without_box"] += len(wanted)
            continue
        found.extend((source_image, concept, *box) for concept in wanted)
    return pd.DataFrame(found, columns=["source_image", "concept", *BOX]), counts


Corners = tuple[float, float, float, float]


def _corners(sheet: Sheet, names: Sequence[str]) -> list[Corners | None]:
    """Return each row's box; none where a corner is open or, as for No Finding, all are 0."""
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
    """Return the resized box with what the published script cuts off wrongly, and whether it did.

    The script limits x by the number of rows and y by the number of columns (its
    `adjusted_bbox`), so boxes low in an upright image are cut short or turned inside out. The crop
    is of whole pixels, which tells whether a box was cut and gives back what is missing.
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


# One row per breast.


def _read_breasts(
    folder: Path,
    sheet: Sheet,
    concepts: Mapping[str, str],
    covariates: Mapping[str, str],
    split: str | None,
) -> SourceCohort:
    from mammo_sae.cohorts.facts import header_columns  # what only locates files needs no pydicom

    for concept, category in concepts.items():
        if category in CLASSES:
            raise InputError(
                f"concepts.{concept}: {FINAL} says nothing of {category!r}; use {FOLDS}"
            )
    splits = (
        [split] * len(sheet) if split else sheet.chosen("split", {name: name for name in SPLITS})
    )
    typed = {name: sheet.typed(column) for name, column in covariates.items()}
    records: list[dict[str, Any]] = []
    seen: set[str] = set()
    for row, patient, side, view, image, findings in _breasts(sheet):
        if image in seen:
            sheet.refuse(row, view, "names an image a second time")
        seen.add(image)
        labels = {c: int(category in findings) for c, category in concepts.items()}
        more = {name: values.iloc[row] for name, values in typed.items()}
        records.append(
            {
                "source_image": image,
                "source_patient": patient,
                "split": splits[row],
                "view": view,
                "side": side,
                "density": None,
                "birads": None,
                **labels,
                **more,
            }
        )
    columns = ["source_image", "source_patient", "split", "view", "side", "density", "birads"]
    images = pd.DataFrame(records, columns=[*columns, *concepts, *covariates])
    located = locate_folder(folder, set(images["source_patient"]).__contains__)
    headers = header_columns([located[image].dicom for image in images["source_image"]])
    boxes = pd.DataFrame(columns=["source_image", "concept", *BOX])
    positive = int(images[[*concepts]].sum().sum())
    return SourceCohort(images.assign(**headers), boxes, {"findings_without_box": positive})


def _breasts(sheet: Sheet) -> Iterator[tuple[int, str, str, str, str, set[str]]]:
    """Yield row, patient, side, view, image and its findings, for every image."""
    patients, sides = sheet.ids("patient_id"), sheet.chosen("laterality", SIDES)
    for view in VIEWS:
        images = sheet.parsed(view, _texts, "a list of file names")
        findings = sheet.parsed(f"{view}_FINDING", _findings, "lists of findings of R and L")
        for row, (patient, side) in enumerate(zip(patients, sides, strict=True)):
            present = (findings[row] or {}).get(side, [])
            for position, image in enumerate(images[row] or ()):
                nested = position < len(present) and isinstance(present[position], list)
                mine = present[position] if nested else present
                yield row, patient, side, view, _without_suffix(image), set(mine)


def _texts(text: str) -> list[str]:
    found = ast.literal_eval(text)
    if not isinstance(found, list) or not all(isinstance(name, str) and name for name in found):
        raise ValueError
    return found


def _findings(text: str) -> dict[str, list]:
    """Return what is present in the right and in the left breast: findings, or a list per image."""
    right, left = (
        ast.literal_eval(part) if isinstance(part, str) else part
        for part in ast.literal_eval(text)[:2]
    )
    names = {
        name for part in (*right, *left) for name in (part if isinstance(part, list) else [part])
    }
    if not names <= CATEGORIES:
        raise ValueError
    return {"R": right, "L": left}
