"""RSNA Screening Mammography Breast Cancer Detection (2022), the part with labels.

::

    train.csv                                      one row per image
    train_images/<patient_id>/<image_id>.dcm

or, after Mammo-CLIP's preprocessing and similar ones::

    train_folds.csv                                the same with a column fold
    train_images_png/<patient_id>/<image_id>.png   or <patient_id>_<image_id>.png, in a folder whose
                                                   name begins with train_images, or in the source

Labels are labels of breasts, and there are no boxes. `train.csv` has no split. In `train_folds.csv`
fold 0 becomes `test`, which is the fold that Mammo-CLIP's code scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.cohorts.ages import age_in_years
from mammo_sae.cohorts.reader import Reader
from mammo_sae.cohorts.sheet import Sheet, number
from mammo_sae.cohorts.source import FINDING_COLUMNS, Keep, SourceCohort, SourceFiles
from mammo_sae.cohorts.tables import age_bin

IMAGES = "train.csv"
FOLDS = "train_folds.csv"
VIEWS = ("CC", "MLO")  # About 1 % of the images have other views (AT, LM, ML, LMO).
FLAGS = {"0": 0, "1": 1, "False": 0, "True": 1}


class RsnaReader(Reader):
    """A folder of the RSNA data."""

    tables = (IMAGES, FOLDS)
    pattern = "train_images*/**/*"

    def annotations(
        self,
        concepts: Mapping[str, str],
        covariates: Mapping[str, str],
        split: str | None = None,
        keep: Keep | None = None,
    ) -> SourceCohort:
        """Read `train.csv` and the headers of the images with standard views.

        Parameters
        ----------
        concepts
            Concept name -> 0/1 column of the table: cancer, biopsy, invasive, ...
        covariates
            Covariate name -> column of the table: site_id, implant, ...

        Raises
        ------
        InputError
            If something is missing or malformed. The error names file, line and column.
        """
        # Imported here because code that only locates files needs no pydicom.
        from mammo_sae.cohorts.facts import header_columns

        sheet = self._table((*concepts.values(), *covariates.values()))
        sheet = sheet.only("patient_id", keep)
        views = sheet.ids("view")
        machines = sheet.text("machine_id")
        images = pd.DataFrame(
            {
                "source_image": sheet.text("image_id"),
                "source_patient": sheet.text("patient_id"),
                "split": split or _splits(sheet),
                "view": pd.Series(views, dtype=object),
                "side": sheet.chosen("laterality", {"L": "L", "R": "R"}),
                "density": sheet.parsed(
                    "density", dict(zip("ABCD", "ABCD", strict=True)).__getitem__, "A to D or empty"
                ),
                "birads": sheet.parsed("BIRADS", _birads, "0, 1, 2 or empty"),
                "age_bin": [
                    age_bin(age) for age in sheet.parsed("age", age_in_years, "years", private=True)
                ],
                # The headers name no model, so the number of the machine is used.
                "model": [f"machine {name}" if name else None for name in machines],
            }
        )
        for concept, column in concepts.items():
            images[concept] = sheet.parsed(column, FLAGS.__getitem__, "0 or 1")
        for name, column in covariates.items():
            images[name] = sheet.typed(column)
        standard = np.array([view in VIEWS for view in views], dtype=bool)
        kept = np.flatnonzero(standard & sheet.good)
        files = self._files(sheet)
        headers = header_columns([files[row] for row in kept])
        images = images.iloc[kept].assign(
            **{
                name: headers[name]
                for name in ("rows", "columns", "pixel_spacing_mm", "manufacturer")
            },
        )
        findings = pd.DataFrame(columns=FINDING_COLUMNS)
        counts = {"other_views_dropped": int((~standard & sheet.good).sum())}
        return SourceCohort(images, findings, counts, sheets=(sheet,))

    def files(self, keep: Keep | None = None) -> dict[str, SourceFiles]:
        """Return the file of every standard view of kept patients, by `image_id`.

        Raises
        ------
        InputError
            If the table is missing.
        """
        sheet = self._table().only("patient_id", keep)
        return {
            image: SourceFiles(dicom=path, patient=patient, annotation=cells)
            for image, patient, path, view, cells, good in zip(
                sheet.text("image_id"),
                sheet.text("patient_id"),
                self._files(sheet),
                sheet.text("view"),
                sheet.cells(["laterality", "view"]),
                sheet.good,
                strict=True,
            )
            if view in VIEWS and good
        }

    def named_files(self) -> set[Path]:
        """Return the files of all rows, including other views."""
        return set(self._files(self._table()))

    def _table(self, more: Sequence[str] = ()) -> Sheet:
        name = next((n for n in self.tables if (self.folder / n).is_file()), IMAGES)
        needed = ("patient_id", "image_id", "laterality", "view", "density", "BIRADS", "age")
        sheet = self.table(name, needed=(*needed, "machine_id", *more))
        sheet.ids("patient_id", files=True)
        sheet.distinct(sheet.ids("image_id", files=True), "image_id")
        return sheet

    def _files(self, sheet: Sheet) -> list[Path]:
        """Return each row's file, or the expected path of a DICOM file if no file exists."""
        roots = [path for path in sorted(self.folder.glob("train_images*")) if path.is_dir()]

        def file(patient: str, image: str) -> Path:
            for root in (*roots, self.folder):
                found = self.listings.find(root / patient, image) or self.listings.find(
                    root, f"{patient}_{image}"
                )
                if found is not None:
                    return found
            return self.folder / "train_images" / patient / f"{image}.dcm"

        ids = zip(sheet.text("patient_id"), sheet.text("image_id"), sheet.good, strict=True)
        # A row may have been left out because its id would lead to another folder.
        return [file(patient, image) if good else self.folder for patient, image, good in ids]


def _splits(sheet: Sheet) -> list[str] | str:
    if "fold" not in sheet:
        return "training"
    folds = sheet.required("fold", number, "the number of a fold")
    return ["test" if fold == 0 else "training" for fold in folds]


def _birads(text: str) -> int:
    return {0.0: 0, 1.0: 1, 2.0: 2}[float(text)]


READER = RsnaReader
