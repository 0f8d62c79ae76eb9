"""INbreast: full-field digital mammograms with contours drawn by a radiologist.

::

    INbreast.csv                                            one row per image, separated by ;
    AllDICOMs/<File Name>_<patient>_MG_<side>_<view>_ANON.dcm
    AllXML/<File Name>.xml                                  contours, as OsiriX exports them

Peculiarities: the table's patient column contains only `removed`; the file's name contains the
patient. Contours are polygons of "(x, y)" strings, and some have a single point. Some names of
findings are misspelt. The dataset has no split of its own.
"""

from __future__ import annotations

import plistlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.parsers.expat import ExpatError

import pandas as pd

from mammo_sae.cohorts.image_files import composed, is_image_name
from mammo_sae.cohorts.reader import Reader
from mammo_sae.cohorts.sheet import Sheet, number
from mammo_sae.cohorts.source import FINDING_COLUMNS, Keep, SourceCohort, SourceFiles

IMAGES = "INbreast.csv"
# spelling in some files -> spelling in the other files
SPELLINGS = {
    "Assymetry": "Asymmetry",
    "Calcifications": "Calcification",
    "Espiculated Region": "Spiculated Region",
}
DENSITIES = {"1": "A", "2": "B", "3": "C", "4": "D"}


class InbreastReader(Reader):
    """A folder of INbreast."""

    tables = (IMAGES,)
    pattern = "AllDICOMs/*"

    def annotations(
        self,
        concepts: Mapping[str, str],
        covariates: Mapping[str, str],
        split: str | None = None,
        keep: Keep | None = None,
    ) -> SourceCohort:
        """Read the table, the contours and the headers of the images.

        Parameters
        ----------
        concepts
            Concept name -> name of a contour: Mass, Calcification, Cluster, Asymmetry, ...
        covariates
            Covariate name -> column of the table.

        Raises
        ------
        InputError
            If something is missing or malformed. The error names file, line and column.
        """
        # Imported here because code that only locates files needs no pydicom.
        from mammo_sae.cohorts.facts import header_columns

        files = self.files(keep)
        sheet, _ = self._located(covariates.values())
        sheet = sheet.only("File Name", files.__contains__)
        names = sheet.text("File Name")
        images = pd.DataFrame(
            {
                "source_image": names,
                "source_patient": [files[name].patient for name in names],
                "split": split or "training",
                "view": sheet.chosen("View", {"CC": "CC", "MLO": "MLO", "ML": "MLO"}),
                "side": sheet.chosen("Laterality", {"L": "L", "R": "R"}),
                "density": sheet.parsed("ACR", DENSITIES.__getitem__, "1 to 4 or empty"),
                "birads": sheet.parsed("Bi-Rads", _birads, "0 to 6, 4a to 4c, or empty"),
            }
        )
        contours: dict[str, list[tuple[str, tuple[float, float, float, float]]]] = {}
        for row, name in enumerate(names):
            try:
                contours[name] = _contours(self.folder / "AllXML" / f"{name}.xml")
            except ValueError as error:
                contours[name] = []
                sheet.leave_out(row, "File Name", f"has contours in AllXML that {error}")
        for concept, finding in concepts.items():
            images[concept] = [int(any(f == finding for f, _ in contours[name])) for name in names]
        for name, column in covariates.items():
            images[name] = sheet.typed(column)
        images = images[sheet.good].reset_index(drop=True)
        names = list(images["source_image"])
        images = images.assign(**header_columns([files[name].dicom for name in names]))
        rows = [(name, finding, *box) for name in names for finding, box in contours[name]]
        findings = pd.DataFrame(rows, columns=FINDING_COLUMNS)
        return SourceCohort(images, findings, {}, sheets=(sheet,))

    def files(self, keep: Keep | None = None) -> dict[str, SourceFiles]:
        """Return the files of every image of kept patients, by the table's `File Name`.

        Raises
        ------
        InputError
            If the table is missing or lacks a column.
        """
        _, found = self._located()
        return {name: files for name, files in found.items() if keep is None or keep(files.patient)}

    def _located(self, more: Iterable[str] = ()) -> tuple[Sheet, dict[str, SourceFiles]]:
        """Return the table and its files. Rows without exactly one image are left out."""
        needed = ("File Name", "View", "Laterality", "ACR", "Bi-Rads", *more)
        sheet = self.table(IMAGES, separator=";", needed=needed)
        names = sheet.ids("File Name")
        sheet.distinct(names, "File Name")
        on_disk: dict[str, list[Path]] = {}
        for path in sorted(filter(is_image_name, (self.folder / "AllDICOMs").glob("*"))):
            on_disk.setdefault(composed(path.name).split("_")[0], []).append(path)
        found: dict[str, SourceFiles] = {}
        for row, (name, cells) in enumerate(
            zip(names, sheet.cells(["Laterality", "View"]), strict=True)
        ):
            paths = on_disk.get(name, [])
            if len(paths) != 1:
                sheet.leave_out(
                    row, "File Name", f"has {len(paths)} images in AllDICOMs; expected 1"
                )
            elif len(paths[0].name.split("_")) < 3:
                sheet.leave_out(row, "File Name", "has a file whose name holds no patient")
            if not sheet.good_row(row):
                continue
            parts = paths[0].name.split("_")
            found[name] = SourceFiles(
                dicom=paths[0],
                patient=parts[1],
                annotation=cells,
                others=(self.folder / "AllXML" / f"{name}.xml",),
            )
        return sheet, found


def _birads(text: str) -> int:
    found = re.fullmatch(r"([0-6])[abc]?", text)
    if not found:
        raise ValueError
    return int(found[1])


def _contours(path: Path) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Return the finding and the box of each contour. If there is no file, there is no finding.

    Raises
    ------
    ValueError
        If the file is malformed. The words "has contours in AllXML that" go before the message.
    """
    if not path.is_file():
        return []
    try:
        images = plistlib.loads(path.read_bytes())["Images"]
        rois = [roi for image in images for roi in image["ROIs"]]
    except (LookupError, TypeError, ValueError, ExpatError) as error:
        raise ValueError(f"can't be read as a list ({type(error).__name__})") from None
    found = []
    for position, roi in enumerate(rois, start=1):
        try:
            points = [_point(text) for text in roi["Point_px"]]
            name = str(roi["Name"]).strip()
        except (AttributeError, LookupError, TypeError, ValueError):
            raise ValueError(
                f"are malformed: contour {position} (key Name or Point_px); expected a name and "
                "points like (10.5, 20)"
            ) from None
        if points:
            x, y = [p[0] for p in points], [p[1] for p in points]
            # A point lies in a pixel, and the box ends at the edge of that pixel, so no box is
            # empty.
            found.append((SPELLINGS.get(name, name), (min(x), min(y), max(x) + 1, max(y) + 1)))
    return found


def _point(text: str) -> tuple[float, float]:
    x, y = (number(part) for part in text.strip("() ").split(","))
    return x, y


READER = InbreastReader
