"""CMMD (Chinese Mammography Database): findings by breast, proven by biopsy, without boxes.

::

    CMMD_clinicaldata_revision.csv    one row per breast; the downloaded .xlsx, saved as CSV
    CMMD/<ID1>/**/*.dcm               the patient's images, or:
    CMMD/<UID>/*.dcm                  the images of one study or series, as downloaded today

Peculiarities: no table names the images. Only a file's header gives side and view, and the view
only as a code. If no folder has the patient's ID1 as its name, the header's PatientID identifies
the patient. A breast without a row has unknown labels. The dataset has no split of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import pandas as pd

from mammo_sae.cohorts.ages import age_in_years
from mammo_sae.cohorts.downloads import Download
from mammo_sae.cohorts.image_files import composed
from mammo_sae.cohorts.reader import Reader
from mammo_sae.cohorts.sheet import EMPTY, Sheet
from mammo_sae.cohorts.source import (
    FINDING_COLUMNS,
    Keep,
    SourceCohort,
    SourceFiles,
    check_concepts,
)
from mammo_sae.cohorts.tables import age_bin

BREASTS = "CMMD_clinicaldata_revision.csv"
FOLDER = "CMMD"
KINDS = {
    "calcification": {"calcification"},
    "mass": {"mass"},
    "both": {"calcification", "mass"},
}
CATEGORIES = ("mass", "calcification", "malignant")
COLUMNS = (
    "source_image",
    "source_patient",
    "split",
    "view",
    "side",
    "density",
    "birads",
    "rows",
    "columns",
    "pixel_spacing_mm",
    "manufacturer",
    "model",
    "age_bin",
)


class CmmdReader(Reader):
    """A folder of CMMD."""

    tables = (BREASTS,)
    pattern = "CMMD/**/*.dcm"

    def annotations(
        self,
        concepts: Mapping[str, str],
        covariates: Mapping[str, str],
        split: str | None = None,
        keep: Keep | None = None,
    ) -> SourceCohort:
        """Read the table and the headers of all images.

        Parameters
        ----------
        concepts
            Concept name -> `mass`, `calcification` or `malignant`.
        covariates
            Covariate name -> column of the table.

        Raises
        ------
        InputError
            If something is missing or malformed. The error names file, line and column.
        """
        # Imported here because code that only locates files needs no pydicom.
        from mammo_sae.cohorts.facts import read_facts

        check_concepts(concepts, CATEGORIES)
        sheet = self._table(covariates.values()).only("ID1", keep)
        breasts = _breasts(sheet)
        first = {patient: row for row, patient in reversed(list(enumerate(sheet.text("ID1"))))}
        first.pop("", None)
        ages = sheet.parsed("Age", age_in_years, "years or empty", private=True)
        texts = {name: sheet.typed(column) for name, column in covariates.items()}

        files = self.files(keep)
        headers = read_facts([found.dicom for found in files.values()], "read headers")
        rows: list[dict[str, Any]] = []
        dropped = 0
        for (name, found), header in zip(files.items(), headers, strict=True):
            if header is None:
                rows.append({"source_image": name, "source_patient": found.patient, "rows": None})
                continue
            if header.side is None or header.view not in {"CC", "MLO"}:
                dropped += 1
                continue
            about = breasts.get((found.patient, header.side))
            rows.append(
                {
                    "source_image": name,
                    "source_patient": found.patient,
                    "split": split or "training",
                    "view": header.view,
                    "side": header.side,
                    "density": None,
                    "birads": None,
                    "rows": header.rows,
                    "columns": header.columns,
                    "pixel_spacing_mm": header.spacing_mm,
                    "manufacturer": header.manufacturer,
                    "model": header.model,
                    "age_bin": age_bin(ages[first[found.patient]]),
                    **{
                        concept: None if about is None else int(category in about[1])
                        for concept, category in concepts.items()
                    },
                    **{
                        name: None if about is None else texts[name][about[0]]
                        for name in covariates
                    },
                }
            )
        findings = pd.DataFrame(columns=FINDING_COLUMNS)
        columns = [*COLUMNS, *concepts, *covariates]
        counts = {
            "images_without_view_dropped": dropped,
            "patients_without_images": len(
                first.keys() - {found.patient for found in files.values()}
            ),
        }
        images = pd.DataFrame(rows, columns=columns)
        return SourceCohort(images, findings, counts, sheets=(sheet,))

    def files(self, keep: Keep | None = None) -> dict[str, SourceFiles]:
        """Return the files of kept patients in the table, by their path below the folder.

        Raises
        ------
        InputError
            If the table is missing.
        """
        ids = list(dict.fromkeys(self._table().text("ID1")))
        return {
            composed(path.relative_to(self.folder).as_posix()): SourceFiles(
                dicom=path, patient=patient
            )
            for patient in ids
            if patient not in EMPTY and (keep is None or keep(patient))
            for path in self._download.find(patient)
        }

    @cached_property
    def _download(self) -> Download:
        """The files of all patients, so that `keep` does not affect the patient of a file."""
        return Download(self.folder / FOLDER, self._table().text("ID1"), suffixes={".dcm"})

    def _table(self, more: Iterable[str] = ()) -> Sheet:
        needed = ("ID1", "LeftRight", "Age", "abnormality", "classification", *more)
        sheet = self.table(BREASTS, needed=needed)
        sheet.ids("ID1")
        return sheet


READER = CmmdReader


def _breasts(sheet: Sheet) -> dict[tuple[str, str], tuple[int, set[str]]]:
    """Return (patient, side) -> the first row about the breast, and its findings.

    If a malformed row may be about a breast, the breast is left out.
    """
    breasts: dict[tuple[str, str], tuple[int, set[str]]] = {}
    in_doubt: set[tuple[str, str]] = set()
    for row, (patient, side, kind, malignant) in enumerate(
        zip(
            sheet.text("ID1"),
            sheet.chosen("LeftRight", {"L": "L", "R": "R"}),
            sheet.required("abnormality", KINDS.__getitem__, "mass, calcification or both"),
            sheet.chosen("classification", {"Benign": False, "Malignant": True}),
            strict=True,
        )
    ):
        if not sheet.good_row(row):
            in_doubt |= {(patient, breast) for breast in side or "LR"}
            continue
        assert side is not None and kind is not None  # every good row has both
        _, known = breasts.setdefault((patient, side), (row, set()))
        known |= kind | ({"malignant"} if malignant else set())
    # If the cells of a row can't be separated, the row may be about either side.
    ragged = sheet.mentioned(sheet.text("ID1"))
    in_doubt |= {(patient, side) for patient in ragged for side in "LR"}
    return {breast: known for breast, known in breasts.items() if breast not in in_doubt}
