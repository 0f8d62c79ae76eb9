"""Your own images: a folder with image files and one or two tables.

::

    images.csv      one row per image: file, patient_id, split, view, side; a 0/1 column per
                    concept; optional density (A-D), birads (0-6), and covariates
    findings.csv    optional, one row per box: file, finding, xmin, ymin, xmax, ymax
    ...             DICOM, PNG, JPEG, TIFF or NPY files; `file` is a path relative to the folder

Size, spacing, manufacturer, model and age come from the DICOM headers; of other files the size is
known alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import pandas as pd

from mammo_sae.cohorts.sheet import Sheet, flag, number, whole
from mammo_sae.cohorts.source import FINDING_COLUMNS, Keep, SourceCohort, SourceFiles
from mammo_sae.cohorts.tables import BOX, SPLITS

IMAGES = "images.csv"
FINDINGS = "findings.csv"
SHORT_SPLITS = {
    "train": "training",
    "val": "validation",
    "valid": "validation",
    "testing": "test",
}
TABLES = (IMAGES, FINDINGS)
"""Files that `read_folder` reads."""
PATTERN = "**/*"
# Findings are called by the category or by the concept.
NAMES_TOO = True
"""Where images lie."""


def read_folder(
    folder: Path,
    concepts: Mapping[str, str],
    covariates: Mapping[str, str],
    split: str | None = None,
    keep: Keep | None = None,
) -> SourceCohort:
    """Read the tables of a folder and the headers of its images.

    Parameters
    ----------
    folder
        The folder that holds `images.csv`.
    concepts
        Concept name -> column of `images.csv`, and `finding` of `findings.csv`; where there is no
        such column, that of the concept's own name.
    covariates
        Covariate name -> column of `images.csv`.
    split
        The split of all images, instead of what the table says.
    keep
        Which patients to read; all without it.

    Raises
    ------
    InputError
        Naming file, line and column of what is missing or malformed.
    """
    from mammo_sae.cohorts.facts import header_columns  # what only locates files needs no pydicom

    sheet = Sheet(folder / IMAGES).only("patient_id", keep)
    files = _files(sheet)
    images = pd.DataFrame(
        {
            "source_image": files,
            "source_patient": sheet.ids("patient_id"),
            "split": [split] * len(sheet)
            if split
            else sheet.required("split", _split, " or ".join(SPLITS)),
            "view": sheet.required("view", _one_of("CC", "MLO"), "CC or MLO"),
            "side": sheet.required("side", _one_of("L", "R"), "L or R"),
            "density": _optional(sheet, "density", _one_of(*"ABCD"), "A, B, C, D or empty"),
            "birads": _optional(sheet, "birads", _birads, "0 to 6 or empty"),
            **header_columns([folder / name for name in files]),
        }
    )
    for concept, column in concepts.items():
        label = concept if concept in sheet and column not in sheet else column
        images[concept] = sheet.parsed(label, flag, "0, 1 or empty")
    for name, column in covariates.items():
        images[name] = sheet.typed(column)
    return SourceCohort(images, _findings(folder, set(files), strict=keep is None), {})


def locate_folder(folder: Path, keep: Keep | None = None) -> dict[str, SourceFiles]:
    """Return the file of every image of kept patients by its name in `images.csv`.

    Raises
    ------
    InputError
        If the table is missing or names a file outside of the folder.
    """
    sheet = Sheet(folder / IMAGES).only("patient_id", keep)
    boxes: dict[str, list[str]] = {}
    if (folder / FINDINGS).is_file():
        findings = Sheet(folder / FINDINGS)
        for name, cells in zip(
            findings.ids("file"), findings.cells(["finding", *BOX]), strict=True
        ):
            boxes.setdefault(name, []).append(cells)
    return {
        name: SourceFiles(
            dicom=folder / name,
            patient=patient,
            annotation="\n".join([cells, *sorted(boxes.get(name, []))]),
        )
        for name, patient, cells in zip(
            _files(sheet), sheet.ids("patient_id"), sheet.cells(["view", "side"]), strict=True
        )
    }


def _files(sheet: Sheet) -> list[str]:
    files = sheet.ids("file")
    seen: set[str] = set()
    for row, name in enumerate(files):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            sheet.refuse(row, "file", "must be a path inside the folder, relative to it")
        if name in seen:
            sheet.refuse(row, "file", "occurs a second time")
        seen.add(name)
    return files


def _optional(
    sheet: Sheet, column: str, parse: Callable[[str], object], expected: str
) -> list[object]:
    return sheet.parsed(column, parse, expected) if column in sheet else [None] * len(sheet)


def _one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser of `choices`, in upper or lower case."""
    return lambda text: {choice.lower(): choice for choice in choices}[text.lower()]


def _split(text: str) -> str:
    return {**{name: name for name in SPLITS}, **SHORT_SPLITS}[text.lower()]


def _birads(text: str) -> int:
    value = whole(text)
    if not 0 <= value <= 6:
        raise ValueError
    return value


def _findings(folder: Path, files: set[str], *, strict: bool) -> pd.DataFrame:
    if not (folder / FINDINGS).is_file():
        return pd.DataFrame(columns=FINDING_COLUMNS)
    sheet = Sheet(folder / FINDINGS)
    if not strict:
        sheet = sheet.only("file", files.__contains__)
    corners = [sheet.required(name, number, "a number of pixels") for name in BOX]
    rows = []
    for row, (file, finding, *box) in enumerate(
        zip(sheet.ids("file"), sheet.ids("finding"), *corners, strict=True)
    ):
        if file not in files:
            sheet.refuse(row, "file", f"is not in {IMAGES}")
        if not (box[0] < box[2] and box[1] < box[3]):
            sheet.refuse(row, "xmax", "leaves no box: a minimum is not below its maximum")
        rows.append((file, finding, *box))
    return pd.DataFrame(rows, columns=FINDING_COLUMNS)
