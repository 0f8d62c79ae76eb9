"""CBIS-DDSM: digitised film, one row per abnormality, regions of interest as DICOM masks.

::

    {mass,calc}_case_description_{train,test}_set.csv
    <Mass|Calc>-<Training|Test>_<patient>_<side>_<view>/**/*.dcm       the film
    <Mass|Calc>-<Training|Test>_<patient>_<side>_<view>_<n>/**/*.dcm   mask and crop of finding n

The folders may lie deeper. They may also be named by study or series; then a file's header gives
its case. The copy that is distributed as JPEG has the tables in `csv/`, and each series in
`jpeg/<series UID>/`. Files may be PNG, JPEG, TIFF or NPY.

Peculiarities: the paths in the tables end with names that the download does not have. The reader
therefore uses their first folder, the case. If this folder does not exist, it uses the third, the
UID of the series. A series of a finding has two files, the mask and the crop. Their sizes decide
which is the mask, because the tables sometimes swap them. Films with masses and calcifications are
in both tables, as two copies, and become one image. Patients who are in the training part and in
the test part become `test`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from mammo_sae.cohorts.downloads import Download
from mammo_sae.cohorts.reader import Reader
from mammo_sae.cohorts.sheet import Sheet
from mammo_sae.cohorts.source import (
    FINDING_COLUMNS,
    Keep,
    SourceCohort,
    SourceFiles,
    check_concepts,
)

NAMES = tuple(
    f"{kind}_case_description_{part}_set.csv"
    for kind in ("mass", "calc")
    for part in ("train", "test")
)
COLUMNS = (
    "patient_id",
    "left or right breast",
    "image view",
    "assessment",
    "abnormality type",
    "pathology",
    "image file path",
    "ROI mask file path",
)
CATEGORIES = ("mass", "calcification", "malignant")
SIDES = {"LEFT": "L", "RIGHT": "R"}
VIEWS = {"CC": "CC", "MLO": "MLO"}
DENSITIES = {"0": None, "1": "A", "2": "B", "3": "C", "4": "D"}
PATHOLOGIES = {"MALIGNANT": True, "BENIGN": False, "BENIGN_WITHOUT_CALLBACK": False}


@dataclass
class _Film:
    """The combined content of all rows of one film."""

    sheet: Sheet
    row: int
    patient: str
    split: str
    side: str
    view: str
    file: Path | None
    density: str | None = None
    birads: int | None = None
    findings: list[tuple[set[str], list[Path], Sheet, int]] = field(default_factory=list)


class CbisDdsmReader(Reader):
    """A folder of CBIS-DDSM."""

    tables = (*NAMES, *(f"csv/{name}" for name in NAMES))
    pattern = "*/**/*"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._download: Download | None = None

    def annotations(
        self,
        concepts: Mapping[str, str],
        covariates: Mapping[str, str],
        split: str | None = None,
        keep: Keep | None = None,
    ) -> SourceCohort:
        """Read the four tables, the headers of the images, and the extent of each mask.

        Parameters
        ----------
        concepts
            Concept name -> `mass`, `calcification` or `malignant`.
        covariates
            Covariate name -> column of the tables; a film's first row counts.

        Raises
        ------
        InputError
            If something is missing or malformed. The error names file, line and column.
        """
        # Imported here because code that only locates files needs no pydicom.
        from mammo_sae.cohorts.facts import header_columns

        check_concepts(concepts, CATEGORIES)
        films, sheets = self._films(keep, covariates.values())
        found = list(films.values())
        headers = header_columns([film.file or self.folder / name for name, film in films.items()])
        held_out = {film.patient for film in found if film.split == "test"}
        both = held_out & {film.patient for film in found if film.split == "training"}
        images = pd.DataFrame(
            {
                "source_image": list(films),
                "source_patient": [film.patient for film in found],
                "split": [
                    split or ("test" if film.patient in held_out else "training") for film in found
                ],
                "view": [film.view for film in found],
                "side": [film.side for film in found],
                "density": [film.density for film in found],
                "birads": [film.birads for film in found],
                **headers,
            }
        )
        for concept, category in concepts.items():
            images[concept] = [
                int(any(category in categories for categories, *_ in film.findings))
                for film in found
            ]
        for name, column in covariates.items():
            images[name] = [film.sheet.text(column)[film.row] or None for film in found]
        sizes = zip(headers["rows"], headers["columns"], strict=True)
        boxes, without = _boxes(films, list(sizes))
        counts = {"findings_without_box": without, "patients_in_both_parts": len(both)}
        return SourceCohort(images, boxes, counts, sheets=tuple(sheets))

    def files(self, keep: Keep | None = None) -> dict[str, SourceFiles]:
        """Return the files of the films by patient, side and view, including their masks.

        Raises
        ------
        InputError
            If a table is missing or malformed.
        """
        return {
            name: SourceFiles(
                dicom=film.file or self.folder / name,
                patient=film.patient,
                annotation="\n".join(
                    [
                        film.side,
                        film.view,
                        *(" ".join(sorted(kinds)) for kinds, *_ in film.findings),
                    ]
                ),
                others=tuple(path for _, files, *_ in film.findings for path in files),
            )
            for name, film in self._films(keep)[0].items()
        }

    def _films(
        self, keep: Keep | None, more: Iterable[str] = ()
    ) -> tuple[dict[str, _Film], list[Sheet]]:
        """Return the films and the tables. A film with a malformed row is left out."""
        films: dict[str, _Film] = {}
        in_doubt: list[tuple[str, str | None, str | None]] = []
        tables = "csv/" if (self.folder / "csv").is_dir() else ""
        sheets = self.every_table({f"{tables}{name}": (*COLUMNS, *more) for name in NAMES})
        if self._download is None:
            # All patients are read, so that `keep` does not affect which patient a file belongs to.
            paths = (
                text
                for sheet in sheets
                for column in ("image file path", "ROI mask file path")
                for text in sheet.text(column)
            )
            self._download = Download(self.folder, {n for path in paths for n in _names(path)})
        for at, (name, sheet) in enumerate(zip(NAMES, sheets, strict=True)):
            sheet.ids("patient_id", files=True)
            sheet = sheets[at] = sheet.only("patient_id", keep)
            density = "breast_density" if "breast_density" in sheet else "breast density"
            columns = zip(
                sheet.text("patient_id"),
                sheet.chosen("left or right breast", SIDES),
                sheet.chosen("image view", VIEWS),
                sheet.parsed(density, DENSITIES.__getitem__, "0 to 4 or empty"),
                sheet.parsed("assessment", _birads, "0 to 6 or empty"),
                sheet.ids("abnormality type"),
                sheet.chosen("pathology", PATHOLOGIES),
                sheet.ids("image file path"),
                sheet.ids("ROI mask file path"),
                strict=True,
            )
            for row, (patient, side, view, dense, birads, kind, malignant, image, roi) in enumerate(
                columns
            ):
                if kind not in CATEGORIES[:2]:
                    why = f"is {kind!r}; expected mass or calcification"
                    sheet.leave_out(row, "abnormality type", why)
                series = [
                    _files(self._download, sheet, row, column, text)
                    for column, text in (("image file path", image), ("ROI mask file path", roi))
                ]
                if not sheet.good_row(row):
                    in_doubt.append((patient, side, view))
                    continue
                film = films.setdefault(
                    f"{patient}_{side}_{view}",
                    _Film(
                        sheet,
                        row,
                        patient,
                        "training" if name.endswith("_train_set.csv") else "test",
                        side,
                        view,
                        next(iter(series[0]), None),
                        dense,
                    ),
                )
                if birads is not None:
                    film.birads = birads if film.birads is None else max(film.birads, birads)
                categories = {kind, *(["malignant"] if malignant else [])}
                film.findings.append((categories, series[1], sheet, row))
        for sheet in sheets:
            ragged = sheet.mentioned(film.patient for film in films.values())
            in_doubt += [(patient, None, None) for patient in sorted(ragged)]
        # If a row does not identify its film, it may belong to any film that fits.
        counted = {
            name: film
            for name, film in films.items()
            if not any(
                film.patient == patient and side in (None, film.side) and view in (None, film.view)
                for patient, side, view in in_doubt
            )
        }
        return counted, sheets


def _files(download: Download, sheet: Sheet, row: int, column: str, text: str) -> list[Path]:
    """Return the files of the series that a path of the tables names."""
    names = _names(text)
    if not names:
        sheet.leave_out(row, column, "must be a path inside the folder")
    return download.find(*names)


def _names(text: str) -> tuple[str, ...]:
    """Return the case and the series UID in a path of the tables.

    The result is empty if the path leaves the folder.
    """
    parts = PurePosixPath(text.strip().strip('"')).parts
    if not parts or parts[0] == "/" or ".." in parts:
        return ()
    return (parts[0], *parts[2:3])


def _birads(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 6:
        raise ValueError
    return value


def _boxes(
    films: Mapping[str, _Film],
    sizes: list[tuple[int | None, int | None]],
) -> tuple[pd.DataFrame, int]:
    """Return the extent of each finding's mask, and the number of findings without one."""
    rows: list[tuple[Any, ...]] = []
    without = 0
    for (name, film), size in zip(films.items(), sizes, strict=True):
        for categories, files, sheet, row in film.findings:
            box, why = _extent(files, size)
            if box is None:
                without += 1
                if size[0]:  # A film that can't be read is reported by itself.
                    sheet.remark(row, "ROI mask file path", f"gives no box: {why}")
                continue
            rows.extend((name, category, *box) for category in sorted(categories))
    return pd.DataFrame(rows, columns=FINDING_COLUMNS), without


def _extent(
    files: Sequence[Path], size: tuple[int | None, int | None]
) -> tuple[tuple[float, float, float, float] | None, str]:
    """Return the extent of the mask among a series' files, or the reason why there is none."""
    from mammo_sae.dicom.files import read_image
    from mammo_sae.dicom.refusal import Refusal

    if not size[0] or not size[1]:
        return None, "the film can't be read"
    found, why = None, "there is no such file"
    for path in files:
        try:
            _, stored = read_image(path)
        except Refusal:
            why = "the file can't be read"
            continue
        # The crop is smaller than the film, or it does not have only two values.
        if not _is_mask(stored):
            why = "no file is an image of two values" if found is None else why
            continue
        if not _same_aspect(stored.shape, (size[0], size[1])):
            why = "the mask has another shape than its film"
            continue
        marked = stored > stored.max() // 2
        y, x = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
        # Some masks were saved smaller or larger than their film.
        down, across = size[0] / stored.shape[0], size[1] / stored.shape[1]
        found = (
            float(x[0] * across),
            float(y[0] * down),
            float((x[-1] + 1) * across),
            float((y[-1] + 1) * down),
        )
        if stored.shape == size:
            break
    return found, why


def _same_aspect(one: tuple[int, ...], other: tuple[int, int]) -> bool:
    """Return whether two sizes have the same aspect ratio, within one hundredth."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= 0.01 * one[0] * other[1]


def _is_mask(stored: np.ndarray) -> bool:
    """Return whether an image is a mask: it has two values, or three if it was scaled.

    JPEG adds further values at edges, so 1 % of the pixels may have values between black and white.
    """
    most = int(stored.max())
    if len(np.unique(stored)) in (2, 3):
        return int(stored.min()) == 0
    sharp = (stored <= most // 8) | (stored >= most - most // 8)
    return most > 0 and bool(sharp.mean() > 0.99) and int(stored.min()) < most


READER = CbisDdsmReader
