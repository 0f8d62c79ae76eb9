"""EMBED (Emory), the open part: exams with several kinds of image, findings by exam and side.

::

    tables/EMBED_OpenData_clinical.csv    one row per finding: exam, side, assessment, descriptors
    tables/EMBED_OpenData_metadata.csv    one row per file: exam, side, view, kind, boxes
    images/...                            the part of anon_dicom_path from the cohort folder on

Peculiarities: findings belong to an exam and a side. If `side` is B or empty, a finding belongs to
both sides. Boxes are [ymin, xmin, ymax, xmax] and do not name their finding, so they are used only
if the exam's side has one finding. `DCM_ROI_coords` are pixels of the DICOM file. `ROI_coords` and
`PNG_ROI_coords` are pixels of PNG files, which the authors mirrored so that every breast lies on
the left. The code here uses the rule of their notebook (Emory-HITI/EMBED_Open_Data, DCM_to_PNG).
Synthetic views, tomosynthesis, spot views and screenshots are dropped and counted. Density 5 means
a male breast. The dataset has no split of its own.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from mammo_sae.cohorts.ages import age_in_years
from mammo_sae.cohorts.image_files import composed, fits
from mammo_sae.cohorts.reader import Reader
from mammo_sae.cohorts.sheet import EMPTY, Sheet, number
from mammo_sae.cohorts.source import (
    FINDING_COLUMNS,
    Keep,
    SourceCohort,
    SourceFiles,
    check_concepts,
)
from mammo_sae.cohorts.tables import age_bin
from mammo_sae.errors import InputError

CLINICAL = "tables/EMBED_OpenData_clinical.csv"
METADATA = "tables/EMBED_OpenData_metadata.csv"
ROOTS = ("anon_dicom", "images")  # the part of anon_dicom_path before the cohort folder
VIEWS = ("CC", "MLO")
BIRADS = {"A": 0, "N": 1, "B": 2, "P": 3, "S": 4, "M": 5, "K": 6}
CANCER = {0, 1}  # values of path_severity: invasive, in situ
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
)
DICOM_BOXES = "DCM_ROI_coords"
PNG_BOXES = ("PNG_ROI_coords", "ROI_coords")
BOXES = (DICOM_BOXES, *PNG_BOXES)


class EmbedReader(Reader):
    """A folder of EMBED."""

    tables = (CLINICAL, METADATA)
    pattern = "images/**/*"

    def annotations(
        self,
        concepts: Mapping[str, str],
        covariates: Mapping[str, str],
        split: str | None = None,
        keep: Keep | None = None,
    ) -> SourceCohort:
        """Read both tables and the headers of the images.

        Parameters
        ----------
        concepts
            Concept name -> `mass`, `asymmetry`, `distortion`, `calcification` or `cancer` (proven).
        covariates
            Covariate name -> column of the metadata table.

        Raises
        ------
        InputError
            If something is missing or malformed. The error names file, line and column.
        """
        # Imported here because code that only locates files needs no pydicom.
        from mammo_sae.cohorts.facts import fact_columns, read_facts

        check_concepts(concepts, CATEGORIES)
        sheet, clinical = self._sheets(covariates.values())
        sheet = sheet.only("empi_anon", keep)
        files = self._files(sheet)
        kept = _kept(sheet)
        exams, sides = sheet.text("acc_anon"), sheet.text("ImageLateralityFinal")
        findings = _findings(clinical)
        of_row = [findings.get((exams[row], sides[row]), []) for row in kept]
        boxes_of_row = _boxes_of_row(sheet)
        headers = read_facts([files[row] for row in kept], "read headers")
        patients, views = sheet.text("empi_anon"), sheet.text("ViewPosition")
        images = pd.DataFrame(
            {
                "source_image": [
                    composed(files[row].relative_to(self.folder).as_posix()) for row in kept
                ],
                "source_patient": [patients[row] for row in kept],
                "split": split or "training",
                "view": [views[row] for row in kept],
                "side": [sides[row] for row in kept],
                "density": [_first(found, "density") for found in of_row],
                "birads": [_first(found, "birads") for found in of_row],
                **fact_columns(headers),
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
        if DICOM_BOXES not in sheet:
            boxes_of_row = [
                _mirrored(boxes_of_row[row], header.columns)
                if header and _is_mirrored(header.orientation, sides[row], views[row])
                else boxes_of_row[row]
                for row, header in zip(kept, headers, strict=True)
            ]
        else:
            boxes_of_row = [boxes_of_row[row] for row in kept]
        boxes, dropped = _boxes(boxes_of_row, images["source_image"], of_row)
        counts = {
            "other_images_dropped": int(sheet.good.sum()) - len(kept),
            "images_of_unknown_exams": sum(not found for found in of_row),
            **dropped,
        }
        return SourceCohort(images, boxes, counts, sheets=(sheet, clinical))

    def files(self, keep: Keep | None = None) -> dict[str, SourceFiles]:
        """Return the file of every standard view of kept patients, by its path below the folder.

        Raises
        ------
        InputError
            If a table is missing or malformed.
        """
        sheet, clinical = self._sheets()
        sheet = sheet.only("empi_anon", keep)
        files = self._files(sheet)
        exams, sides, patients = (
            sheet.text(name) for name in ("acc_anon", "ImageLateralityFinal", "empi_anon")
        )
        cells = sheet.cells(["ImageLateralityFinal", "ViewPosition", *BOXES])
        findings = _findings(clinical)
        return {
            composed(files[row].relative_to(self.folder).as_posix()): SourceFiles(
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

    def named_files(self) -> set[Path]:
        """Return the files of all rows, also of images that are not read, such as tomosynthesis."""
        files = self._files(self._sheets()[0])
        return {path for path in files if path is not None}

    def _sheets(self, more: Iterable[str] = ()) -> tuple[Sheet, Sheet]:
        """Return the tables of files and of findings; rows that share a file are left out."""
        found = []
        wrong = []
        wanted = ((METADATA, (*METADATA_COLUMNS, *more), BOXES), (CLINICAL, CLINICAL_COLUMNS, ()))
        for name, needed, optional in wanted:
            try:
                found.append(self.table(name, columns=(*needed, *optional), needed=needed))
            except InputError as error:
                wrong.append(str(error))
        if wrong:
            raise InputError("; ".join(wrong))
        sheet, clinical = found
        for column in ("empi_anon", "acc_anon"):
            sheet.ids(column)
        sheet.distinct(sheet.ids("anon_dicom_path"), "anon_dicom_path")
        return sheet, clinical

    def _files(self, sheet: Sheet) -> list[Path]:
        files = []
        for row, text in enumerate(sheet.text("anon_dicom_path")):
            parts = PurePosixPath(text).parts
            start = max((n + 1 for n, part in enumerate(parts) if part in ROOTS), default=0)
            if ".." in parts or parts[start:][:1] in {(), ("/",)}:
                sheet.leave_out(
                    row, "anon_dicom_path", "must hold a path below anon_dicom or images"
                )
                parts, start = ("no path",), 0
            elif not fits(text):
                sheet.leave_out(row, "anon_dicom_path", "is longer than a file's name can be")
                parts, start = ("no path",), 0
            named = self.folder.joinpath("images", *parts[start:])
            files.append(self.listings.find(named.parent, named.stem) or named)
        return files


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
        if sheet.good_row(row)
        and kind == "2D"
        and view in VIEWS
        and side in {"L", "R"}
        and spot in {*EMPTY, "0", "0.0"}
    ]


def _findings(sheet: Sheet) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the findings of each exam and side: categories, birads, density, age.

    A side with a malformed row has no entry, because its findings are unknown.
    """
    columns = zip(
        sheet.ids("acc_anon"),
        _or_empty(sheet, "side", {side: side for side in "LRB"}.__getitem__, "L, R, B or empty"),
        sheet.parsed("asses", _birads, "a letter"),
        sheet.parsed("tissueden", lambda text: DENSITIES[int(float(text))], "1 to 5 or empty"),
        sheet.parsed("age_at_study", age_in_years, "years", private=True),
        sheet.text("massshape"),
        sheet.text("calcfind"),
        sheet.text("calcdistri"),
        _or_empty(sheet, "path_severity", lambda text: int(float(text)), "0 to 6 or empty"),
        strict=True,
    )
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    in_doubt: set[tuple[str, str]] = set()
    for row, cells in enumerate(columns):
        exam, side, birads, density, age, shape, calcification, distribution, severity = cells
        breasts = side if side in {"L", "R"} else "LR"
        if not sheet.good_row(row):
            in_doubt |= {(exam, breast) for breast in breasts}
            continue
        categories = {name for name, shapes in SHAPES.items() if shape in shapes}
        if {calcification, distribution} - EMPTY:
            categories.add("calcification")
        if severity in CANCER:
            categories.add("cancer")
        finding = {"categories": categories, "birads": birads, "density": density, "age": age}
        for breast in breasts:
            found.setdefault((exam, breast), []).append(finding)
    # If the cells of a row can't be separated, the row may be about either side.
    ragged = sheet.mentioned(exam for exam, _ in found)
    return {
        key: findings
        for key, findings in found.items()
        if key not in in_doubt and key[0] not in ragged
    }


def _or_empty(sheet: Sheet, column: str, parse: Callable[[str], Any], expected: str) -> list[Any]:
    """Return `parse` of each cell, None if the cell is empty. Malformed rows are left out."""
    found = sheet.parsed(column, parse, expected)
    for row, (value, text) in enumerate(zip(found, sheet.text(column), strict=True)):
        if value is None and text not in EMPTY:
            sheet.leave_out(row, column, f"is malformed; expected {expected}")
    return found


def _birads(text: str) -> int | None:
    """Read an assessment. A letter that is not a BI-RADS assessment gives None."""
    if len(text) != 1 or not text.isalpha():
        raise ValueError
    return BIRADS.get(text)


def _first(findings: list[dict[str, Any]], name: str) -> Any:
    return next((finding[name] for finding in findings if finding[name] is not None), None)


Box = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax


def _boxes(
    boxes_of_row: Sequence[Sequence[Box]],
    names: Sequence[str],
    findings: Sequence[list[dict[str, Any]]],
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return a row per box and category, and the number of dropped boxes by reason."""
    rows: list[tuple[Any, ...]] = []
    dropped = {"boxes_of_unknown_finding": 0, "boxes_without_area": 0}
    for name, boxes, found in zip(names, boxes_of_row, findings, strict=True):
        abnormal = [finding for finding in found if finding["categories"]]
        for box in boxes:
            if not (box[0] < box[2] and box[1] < box[3]):
                dropped["boxes_without_area"] += 1
            elif len(abnormal) != 1:
                dropped["boxes_of_unknown_finding"] += 1
            else:
                rows.extend((name, category, *box) for category in abnormal[0]["categories"])
    return pd.DataFrame(rows, columns=FINDING_COLUMNS).sort_values(
        FINDING_COLUMNS, kind="stable", ignore_index=True
    ), dropped


def _boxes_of_row(sheet: Sheet) -> list[list[Box]]:
    """Return each row's boxes as the table gives them, from its most exact column of boxes."""
    column = next((name for name in BOXES if name in sheet), BOXES[-1])
    found = sheet.parsed(column, _parsed_boxes, "a list of [ymin, xmin, ymax, xmax]")
    return [boxes or [] for boxes in found]


def _parsed_boxes(text: str) -> list[Box]:
    """Read boxes from lists or tuples, nested at any depth."""

    def walk(value: Any) -> list[Box]:
        if not isinstance(value, list | tuple):
            raise ValueError
        if value and not isinstance(value[0], list | tuple):
            top, left, bottom, right = (number(str(corner)) for corner in value)
            return [(left, top, right, bottom)]
        return [box for part in value for box in walk(part)]

    return walk(ast.literal_eval(text))


def _is_mirrored(orientation: str | None, side: str, view: str) -> bool:
    """Return whether the authors' PNG file of an image is mirrored."""
    if view not in VIEWS:
        return False
    return orientation.startswith("P") if orientation else side == "R"


def _mirrored(boxes: Sequence[Box], columns: int) -> list[Box]:
    return [(columns - right, top, columns - left, bottom) for left, top, right, bottom in boxes]


READER = EmbedReader
