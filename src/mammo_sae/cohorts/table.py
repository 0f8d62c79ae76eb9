"""Your own images: a folder with image files and one or two tables.

::

    images.csv      one row per image: file, patient_id, split, view, side; a 0/1 column per
                    concept; optional density (A-D), birads (0-6), and covariates
    findings.csv    optional, one row per box: file, finding, xmin, ymin, xmax, ymax
    ...             DICOM, PNG, JPEG, TIFF or NPY files; `file` is a path relative to the folder

Size, spacing, manufacturer, model and age come from the DICOM headers. For other files only the
size is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

import pandas as pd

from mammo_sae.cohorts.columns import BOX
from mammo_sae.cohorts.image_files import file_in, fits
from mammo_sae.cohorts.reader import Reader
from mammo_sae.cohorts.sheet import Sheet, flag, number, whole
from mammo_sae.cohorts.source import FINDING_COLUMNS, Keep, SourceCohort, SourceFiles
from mammo_sae.cohorts.tables import SPLITS

IMAGES = "images.csv"
FINDINGS = "findings.csv"
SHORT_SPLITS = {
    "train": "training",
    "val": "validation",
    "valid": "validation",
    "testing": "test",
}


class TableReader(Reader):
    """A folder with your own tables."""

    tables = (IMAGES, FINDINGS)
    pattern = "**/*"

    @classmethod
    def finding_names(cls, concept: str, category: str) -> tuple[str, ...]:
        """Return the names of a concept's findings: the category's and the concept's own name."""
        return tuple({concept: 0, category: 0})

    def annotations(
        self,
        concepts: Mapping[str, str],
        covariates: Mapping[str, str],
        split: str | None = None,
        keep: Keep | None = None,
    ) -> SourceCohort:
        """Read the tables of a folder and the headers of its images.

        Parameters
        ----------
        concepts
            Concept name -> column of `images.csv`, and `finding` of `findings.csv`. If this column
            does not exist, the column with the concept's own name is used.
        covariates
            Covariate name -> column of `images.csv`.

        Raises
        ------
        InputError
            If something is missing or malformed. The error names file, line and column.
        """
        # Imported here because code that only locates files needs no pydicom.
        from mammo_sae.cohorts.facts import header_columns

        sheet, found = self._sheets(covariates.values())
        for concept, column in concepts.items():
            if concept not in sheet:
                sheet.need(column)
        sheet = sheet.only("patient_id", keep)
        files = sheet.text("file")
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
            }
        )
        for concept, column in concepts.items():
            label = concept if concept in sheet and column not in sheet else column
            images[concept] = sheet.parsed(label, flag, "0, 1 or empty")
        for name, column in covariates.items():
            images[name] = sheet.typed(column)
        images = images[sheet.good].reset_index(drop=True)
        headers = header_columns([file_in(self.folder, name) for name in images["source_image"]])
        boxes = _findings(found, sheet, files, keep)
        sheets = (sheet,) if found is None else (sheet, found)
        return SourceCohort(images.assign(**headers), boxes, {}, sheets=sheets)

    def files(self, keep: Keep | None = None) -> dict[str, SourceFiles]:
        """Return the file of every image of kept patients, by its name in `images.csv`.

        Raises
        ------
        InputError
            If the table is missing or names a file outside of the folder.
        """
        sheet, findings = self._sheets()
        sheet = sheet.only("patient_id", keep)
        boxes: dict[str, list[str]] = {}
        if findings is not None:
            for name, cells in zip(
                findings.text("file"), findings.cells(["finding", *BOX]), strict=True
            ):
                boxes.setdefault(name, []).append(cells)
        return {
            name: SourceFiles(
                dicom=file_in(self.folder, name),
                patient=patient,
                annotation="\n".join([cells, *sorted(boxes.get(name, []))]),
            )
            for name, patient, cells, good in zip(
                sheet.text("file"),
                sheet.text("patient_id"),
                sheet.cells(["view", "side"]),
                sheet.good,
                strict=True,
            )
            if good
        }

    def _sheets(self, more: Iterable[str] = ()) -> tuple[Sheet, Sheet | None]:
        """Return both tables.

        Rows of `images.csv` are left out if the file's name is not valid or is that of another row.
        """
        sheets = self.every_table(
            {
                IMAGES: ["file", "patient_id", "split", "view", "side", *more],
                **(
                    {FINDINGS: ["file", "finding", *BOX]}
                    if (self.folder / FINDINGS).is_file()
                    else {}
                ),
            },
        )
        sheet = sheets[0]
        sheet.ids("patient_id")
        files = sheet.ids("file")
        for row, name in enumerate(files):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                sheet.leave_out(row, "file", "must be a path inside the folder, relative to it")
            elif not fits(name):
                sheet.leave_out(row, "file", "is longer than a file's name can be")
        sheet.distinct(files, "file")
        return sheet, (sheets[1] if len(sheets) > 1 else None)


def _optional(
    sheet: Sheet, column: str, parse: Callable[[str], object], expected: str
) -> list[object]:
    return sheet.parsed(column, parse, expected) if column in sheet else [None] * len(sheet)


def _one_of(*choices: str) -> Callable[[str], str]:
    """Return a function that reads one of `choices`, whether in upper or lower case."""
    return lambda text: {choice.lower(): choice for choice in choices}[text.lower()]


def _split(text: str) -> str:
    return {**{name: name for name in SPLITS}, **SHORT_SPLITS}[text.lower()]


def _birads(text: str) -> int:
    value = whole(text)
    if not 0 <= value <= 6:
        raise ValueError
    return value


def _findings(
    found: Sheet | None, sheet: Sheet, files: Sequence[str], keep: Keep | None
) -> pd.DataFrame:
    """Return the boxes of images that are used. The box of a malformed row is left out."""
    if found is None:
        return pd.DataFrame(columns=FINDING_COLUMNS)
    if keep is not None:
        found = found.only("file", set(files).__contains__)
    corners = [found.required(name, number, "a number of pixels") for name in BOX]
    known = set(files)
    counted = {name for name, good in zip(files, sheet.good, strict=True) if good}
    rows = []
    for row, (file, finding, *box) in enumerate(
        zip(found.ids("file"), found.ids("finding"), *corners, strict=True)
    ):
        if file not in known:
            found.leave_out(row, "file", f"is not in {IMAGES}")
        elif None not in box and not (box[0] < box[2] and box[1] < box[3]):
            found.leave_out(row, "xmax", "gives no box: a minimum is not below its maximum")
        if file in counted and found.good_row(row):
            rows.append((file, finding, *box))
    return pd.DataFrame(rows, columns=FINDING_COLUMNS)


READER = TableReader
