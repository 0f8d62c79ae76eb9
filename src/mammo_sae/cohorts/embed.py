"""EMBED (Emory), the open part: exams of several kinds of image, findings by exam and side.

::

    tables/EMBED_OpenData_clinical.csv    one row per finding: exam, side, assessment, descriptors
    tables/EMBED_OpenData_metadata.csv    one row per file: exam, side, view, kind, ROI_coords
    images/...                            anon_dicom_path from its cohort folder on

Quirks: findings belong to an exam and side, a `side` of B or empty to both sides; boxes are
[ymin, xmin, ymax, xmax] and say nothing of the finding, so they count only where the exam's side
has one; synthetic views, tomosynthesis, spot views and screenshots are dropped and counted; density
5 means a male breast. No split of its own.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from mammo_sae.cohorts.image_files import Listings
from mammo_sae.cohorts.sheet import EMPTY, Sheet, number
from mammo_sae.cohorts.source import Keep, SourceCohort, SourceFiles, check_concepts
from mammo_sae.cohorts.tables import BOX, age_bin

CLINICAL = "tables/EMBED_OpenData_clinical.csv"
METADATA = "tables/EMBED_OpenData_metadata.csv"
TABLES = (CLINICAL, METADATA)
"""Files that `read_folder` reads."""
PATTERN = "images/**/*"
"""Where images lie."""
ROOTS = ("anon_dicom", "images")  # what stands before the cohort folder in anon_dicom_path
VIEWS = ("CC", "MLO")
BIRADS = {"A": 0, "N": 1, "B": 2, "P": 3, "S": 4, "M": 5, "K": 6}
CANCER = {0, 1}  # of path_severity: invasive, in situ
DENSITIES = {1: "A", 2: "B", 3: "C", 4: "D", 5: None}
# Codes of massshape, as the release's clinical_legend.csv explains them.
SHAPES = {
    "mass": {"G", "O", "R", "X", "Y"},
    "asymmetry": {"B", "F", "S", "T", "V"},
    "distortion": {"A", "Q"},
}
CATEGORIES = (*SHAPES, "calcification", "cancer")
CLINICAL_COLUMNS = (
    "acc_anon",
    "side",
    "asses",
    "tissueden",
    "age_at_study",
    "massshape",
    "calcfind",
    "calcdistri",
    "path_severity",
)
METADATA_COLUMNS = (
    "empi_anon",
    "acc_anon",
    "anon_dicom_path",
    "ImageLateralityFinal",
    "ViewPosition",
    "FinalImageType",
    "spot_mag",
    "ROI_coords",
)


def read_folder(
    folder: Path,
    concepts: Mapping[str, str],
    covariates: Mapping[str, str],
    split: str | None = None,
    keep: Keep | None = None,
) -> SourceCohort:
    """Read both tables and the headers of the images.

    Parameters
    ----------
    folder
        The folder that holds `tables` and `images`.
    concepts
        Concept name -> `mass`, `asymmetry`, `distortion`, `calcification` or `cancer` (proven).
    covariates
        Covariate name -> column of the metadata table.
    split
        The split of all images; without one they are all `training`.
    keep
        Which patients to read; all without it.

    Raises
    ------
    InputError
        Naming file, line and column of what is missing or malformed.
    """
    from mammo_sae.cohorts.facts import header_columns  # what only locates files needs no pydicom

    check_concepts(concepts, CATEGORIES)
    sheet = Sheet(folder / METADATA, columns=(*METADATA_COLUMNS, *covariates.values()))
    sheet = sheet.only("empi_anon", keep)
    kept = _kept(sheet)
    files = _files(folder, sheet)
    exams, sides = sheet.ids("acc_anon"), sheet.text("ImageLateralityFinal")
    findings = _findings(folder)
    of_row = [findings.get((exams[row], sides[row]), []) for row in kept]
    patients, views = sheet.ids("empi_anon"), sheet.text("ViewPosition")
    images = pd.DataFrame(
        {
            "source_image": [files[row].relative_to(folder).as_posix() for row in kept],
            "source_patient": [patients[row] for row in kept],
            "split": split or "training",
            "view": [views[row] for row in kept],
            "side": [sides[row] for row in kept],
            "density": [_first(found, "density") for found in of_row],
            "birads": [_first(found, "birads") for found in of_row],
            **header_columns([files[row] for row in kept]),
            "age_bin": [age_bin(_first(found, "age")) for found in of_row],
        }
    )
    for concept, category in concepts.items():
        # An exam without a row in the clinical table is unknown, not healthy.
        images[concept] = [
            int(any(category in finding["categories"] for finding in found)) if found else None
            for found in of_row
        ]
    for name, column in covariates.items():
        images[name] = sheet.typed(column).iloc[kept].to_numpy()
    boxes, ambiguous = _boxes(sheet, kept, images, of_row, concepts)
    counts = {"other_images_dropped": len(sheet) - len(kept), "boxes_of_unknown_finding": ambiguous}
    return SourceCohort(images, boxes, counts)


def locate_folder(folder: Path, keep: Keep | None = None) -> dict[str, SourceFiles]:
    """Return the file of every standard view of kept patients by its path below the folder.

    Raises
    ------
    InputError
        If a table is missing or malformed.
    """
    sheet = Sheet(folder / METADATA, columns=METADATA_COLUMNS).only("empi_anon", keep)
    files = _files(folder, sheet)
    exams, sides, patients = (
        sheet.text(name) for name in ("acc_anon", "ImageLateralityFinal", "empi_anon")
    )
    cells = sheet.cells(["ImageLateralityFinal", "ViewPosition", "ROI_coords"])
    findings = _findings(folder)
    return {
        files[row].relative_to(folder).as_posix(): SourceFiles(
            dicom=files[row],
            patient=patients[row],
            annotation=cells[row]
            + " ".join(
                category
                for finding in findings.get((exams[row], sides[row]), [])
                for category in sorted(finding["categories"])
            ),
        )
        for row in _kept(sheet)
    }


def named_files(folder: Path) -> set[Path]:
    """Return the files of all rows, those of other kinds of image too."""
    return set(_files(folder, Sheet(folder / METADATA, columns=METADATA_COLUMNS)))


def _kept(sheet: Sheet) -> list[int]:
    rows = zip(
        sheet.text("FinalImageType"),
        sheet.text("ViewPosition"),
        sheet.text("ImageLateralityFinal"),
        sheet.text("spot_mag"),
        strict=True,
    )
    return [
        row
        for row, (kind, view, side, spot) in enumerate(rows)
        if kind == "2D" and view in VIEWS and side in {"L", "R"} and spot in {*EMPTY, "0", "0.0"}
    ]


def _files(folder: Path, sheet: Sheet) -> list[Path]:
    files = []
    listings = Listings()
    for row, text in enumerate(sheet.ids("anon_dicom_path")):
        parts = PurePosixPath(text).parts
        start = max((n + 1 for n, part in enumerate(parts) if part in ROOTS), default=0)
        if ".." in parts or parts[start:][:1] in {(), ("/",)}:
            sheet.refuse(row, "anon_dicom_path", "must hold a path below anon_dicom or images")
        named = folder.joinpath("images", *parts[start:])
        files.append(listings.find(named.parent, named.stem) or named)
    return files


def _findings(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the findings of each exam and side: categories, birads, density, age."""
    sheet = Sheet(folder / CLINICAL, columns=CLINICAL_COLUMNS)
    columns = zip(
        sheet.ids("acc_anon"),
        sheet.parsed("side", {side: side for side in "LRB"}.__getitem__, "L, R, B or empty"),
        sheet.parsed("asses", _birads, "a letter"),
        sheet.parsed("tissueden", lambda text: DENSITIES[int(float(text))], "1 to 5 or empty"),
        sheet.parsed("age_at_study", lambda text: int(float(text)), "years or empty"),
        sheet.text("massshape"),
        sheet.text("calcfind"),
        sheet.text("calcdistri"),
        sheet.parsed("path_severity", lambda text: int(float(text)), "0 to 6 or empty"),
        strict=True,
    )
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for exam, side, birads, density, age, shape, calcification, distribution, severity in columns:
        categories = {name for name, shapes in SHAPES.items() if shape in shapes}
        if {calcification, distribution} - EMPTY:
            categories.add("calcification")
        if severity in CANCER:
            categories.add("cancer")
        finding = {"categories": categories, "birads": birads, "density": density, "age": age}
        for breast in side if side in {"L", "R"} else "LR":
            found.setdefault((exam, breast), []).append(finding)
    return found


def _birads(text: str) -> int | None:
    """Read an assessment; letters that are none of BI-RADS's say nothing."""
    if len(text) != 1 or not text.isalpha():
        raise ValueError
    return BIRADS.get(text)


def _first(findings: list[dict[str, Any]], name: str) -> Any:
    return next((finding[name] for finding in findings if finding[name] is not None), None)


def _boxes(
    sheet: Sheet,
    kept: list[int],
    images: pd.DataFrame,
    of_row: list[list[dict[str, Any]]],
    concepts: Mapping[str, str],
) -> tuple[pd.DataFrame, int]:
    regions = sheet.parsed("ROI_coords", _regions, "a list of [ymin, xmin, ymax, xmax]")
    rows: list[tuple] = []
    ambiguous = 0
    for row, image, found in zip(kept, images["source_image"], of_row, strict=True):
        abnormal = [finding for finding in found if finding["categories"]]
        for top, left, bottom, right in regions[row] or ():
            if len(abnormal) != 1:
                ambiguous += 1
                continue
            rows.extend(
                (image, concept, left, top, right, bottom)
                for concept, category in concepts.items()
                if category in abnormal[0]["categories"]
            )
    return pd.DataFrame(rows, columns=["source_image", "concept", *BOX]), ambiguous


def _regions(text: str) -> list[tuple[float, float, float, float]]:
    found = []
    for box in ast.literal_eval(text):
        top, left, bottom, right = (number(str(corner)) for corner in box)
        if not (top < bottom and left < right):
            raise ValueError
        found.append((top, left, bottom, right))
    return found
