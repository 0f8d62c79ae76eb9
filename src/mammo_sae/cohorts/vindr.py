"""VinDr-Mammo, and folders with its layout.

::

    images/<study_id>/<image_id>.dicom   or .png, .jpg, .tiff, .npy of the same matrix
    breast-level_annotations.csv     one row per image
    finding_annotations.csv          one row per finding
    metadata.csv                     DICOM attributes, one row per image
    masks/<image_id>.png             optional: exact regions as bit planes
    truth.csv, truth.json optional: the planted findings, and the names of the bit planes

    A study is one patient (Nguyen et al., Scientific Data 2023,
    https://doi.org/10.1038/s41597-023-02100-7).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from mammo_sae.cohorts.ages import age_in_years
from mammo_sae.cohorts.columns import BOX
from mammo_sae.cohorts.reader import Reader
from mammo_sae.cohorts.sheet import Sheet, number
from mammo_sae.cohorts.source import FINDING_COLUMNS, Keep, SourceCohort, SourceFiles
from mammo_sae.cohorts.tables import SPLITS, age_bin
from mammo_sae.errors import InputError
from mammo_sae.stores.publish import read_plain_json

T = TypeVar("T")

BREASTS = "breast-level_annotations.csv"
FINDINGS = "finding_annotations.csv"
METADATA = "metadata.csv"
TRUTH = "truth.csv"
TRUTH_DESCRIPTION = "truth.json"
METADATA_ID = "SOP Instance UID"

CLASSES: dict[str, tuple[str, str | int]] = {
    **{f"DENSITY {letter}": ("density", letter) for letter in "ABCD"},
    **{f"BI-RADS {number}": ("birads", number) for number in range(7)},
}
"""Further values for a concept: one class of a column, against the other classes."""

NO_FINDING = "No Finding"
CATEGORIES = {
    "Mass",
    "Suspicious Calcification",
    "Asymmetry",
    "Focal Asymmetry",
    "Global Asymmetry",
    "Architectural Distortion",
    "Skin Thickening",
    "Skin Retraction",
    "Nipple Retraction",
    "Suspicious Lymph Node",
    NO_FINDING,
}


class VindrReader(Reader):
    """A folder with VinDr-Mammo's layout."""

    tables = (BREASTS, FINDINGS, METADATA, TRUTH, TRUTH_DESCRIPTION)
    pattern = "images/*/*"
    categories = frozenset(CATEGORIES)

    def annotations(
        self,
        concepts: Mapping[str, str],
        covariates: Mapping[str, str],
        split: str | None = None,
        keep: Keep | None = None,
    ) -> SourceCohort:
        """Read the annotations of one folder.

        Parameters
        ----------
        concepts
            Concept name -> finding category, density class
            (``DENSITY A``) or assessment (``BI-RADS 4``). For a class, images of the other classes
            are the negatives.
        covariates
            Covariate name -> column of `truth.csv`, `metadata.csv` or
            `breast-level_annotations.csv`.

        Raises
        ------
        InputError
            If something is missing or malformed. The error names the missing file, or the file,
            line and column.
        """
        check_categories(concepts)
        breasts, found, metadata = self._sheets()
        every = set(breasts.text("image_id"))
        found.required("finding_categories", parse_categories, "a list of known categories")
        # The finding of a malformed row is unknown, so its image is left out. All patients are
        # read, so that `keep` does not affect which patient a row belongs to.
        in_doubt = found.in_doubt(every, "image_id")
        breasts = breasts.only("study_id", keep)
        images = pd.DataFrame(
            {
                "source_image": breasts.text("image_id"),
                "source_patient": breasts.text("study_id"),
                "split": [split] * len(breasts)
                if split
                else breasts.chosen("split", {name: name for name in SPLITS}),
                "view": breasts.chosen("view_position", {"CC": "CC", "MLO": "MLO"}),
                "side": breasts.chosen("laterality", {"L": "L", "R": "R"}),
                "density": breasts.parsed(
                    "breast_density", parse_density, "'DENSITY A' to 'DENSITY D'"
                ),
                "birads": breasts.parsed(
                    "breast_birads", parse_birads, "'BI-RADS 0' to 'BI-RADS 6'"
                ),
                "rows": breasts.required("height", parse_size, "a whole number of pixels"),
                "columns": breasts.required("width", parse_size, "a whole number of pixels"),
            }
        )
        images = images[breasts.good].reset_index(drop=True)
        images = images.join(_metadata(metadata), on="source_image")
        sheets = [breasts, found, metadata]
        for name, column in covariates.items():
            values = self._covariate({BREASTS: breasts, METADATA: metadata}, column)
            images[name] = images["source_image"].map(values)

        if keep is not None:
            found = found.only("image_id", set(images["source_image"]).__contains__)
        categories, findings, without_box = _findings(found, every)
        images = images[~images["source_image"].isin(in_doubt)].reset_index(drop=True)
        findings = findings[findings["source_image"].isin(images["source_image"])]
        findings = findings.reset_index(drop=True)
        for concept, category in concepts.items():
            if category in CLASSES:
                column, value = CLASSES[category]
                images[concept] = [None if pd.isna(v) else int(v == value) for v in images[column]]
                continue
            images[concept] = [
                int(category in categories.get(i, ())) for i in images["source_image"]
            ]
        rows = finding_rows(found, images, concepts)
        described = set(metadata.text(METADATA_ID))
        counts = {
            "findings_without_box": without_box,
            "images_without_metadata": int((~images["source_image"].isin(described)).sum()),
            "images_without_row_of_findings": int(
                (~images["source_image"].isin(set(found.text("image_id")))).sum()
            ),
        }
        return SourceCohort(images, findings, counts, rows, tuple(sheets))

    def files(self, keep: Keep | None = None) -> dict[str, SourceFiles]:
        """Return the files of the images of a folder, by source image id. They need not exist.

        Raises
        ------
        InputError
            If one of its two tables of annotations is missing.
        """
        bits = self.mask_bits()
        breasts, findings, _ = self._sheets()
        breasts = breasts.only("study_id", keep)
        boxes: dict[str, list[str]] = {}
        for image, cells in zip(
            findings.text("image_id"), findings.cells(["finding_categories", *BOX]), strict=True
        ):
            boxes.setdefault(image, []).append(cells)
        shown = breasts.cells(["laterality", "view_position", "height", "width"])

        def file(study: str, image: str) -> Path:
            in_study = self.folder / "images" / study
            return self.listings.find(in_study, image) or in_study / f"{image}.dicom"

        return {
            image: SourceFiles(
                dicom=file(study, image),
                patient=study,
                annotation="\n".join([cells, *sorted(boxes.get(image, []))]),
                mask=self.folder / "masks" / f"{image}.png" if bits else None,
                mask_bits=bits,
            )
            for image, study, cells, good in zip(
                breasts.text("image_id"), breasts.text("study_id"), shown, breasts.good, strict=True
            )
            if good
        }

    def mask_bits(self) -> dict[str, int]:
        """Return region -> bit of `masks/*.png`. It is empty if the folder has no masks.

        A plane with the name of a category (`suspicious_calcification`) is the region of this
        category.

        Raises
        ------
        InputError
            If `truth.json` does not name bits 0 to 7.
        """
        path = self.folder / TRUTH_DESCRIPTION
        if not path.is_file():
            return {}
        bits: dict[str, int] = read_plain_json(path).get("bit_planes")
        if not isinstance(bits, dict) or not all(
            isinstance(bit, int) and 0 <= bit <= 7 for bit in bits.values()
        ):
            raise InputError(f"{path}: key bit_planes must give every region a bit from 0 to 7")
        categories = {name.lower().replace(" ", "_"): name for name in CATEGORIES}
        return {categories.get(name, name): bit for name, bit in bits.items()}

    def _sheets(self) -> list[Sheet]:
        """Return the three tables.

        Rows without an id are left out. If two rows of images or metadata share an id, see
        `Sheet.distinct`.
        """
        if (self.folder / "images_png").is_dir() and not (self.folder / "images").is_dir():
            raise InputError(
                "the source has images_png/ and no images/: that is the layout of Mammo-CLIP's "
                "preprocessing; read it with cohort.kind mammo_clip and images.preprocessing as_is"
            )
        breasts, findings, metadata = self.every_table(
            {
                BREASTS: [
                    *("study_id", "image_id", "split", "view_position", "laterality"),
                    *("breast_density", "breast_birads", "height", "width"),
                ],
                FINDINGS: ["image_id", "finding_categories", *BOX],
                METADATA: [METADATA_ID],
            },
        )
        breasts.ids("study_id", files=True)
        breasts.distinct(breasts.ids("image_id", files=True), "image_id")
        findings.ids("image_id")
        metadata.distinct(metadata.ids(METADATA_ID), METADATA_ID)
        return [breasts, findings, metadata]

    def _covariate(self, sheets: Mapping[str, Sheet], column: str) -> pd.Series:
        """Return one covariate by source image id."""
        searched = []
        for name, key in ((TRUTH, "image_id"), (METADATA, METADATA_ID), (BREASTS, "image_id")):
            if name not in sheets and not (self.folder / name).is_file():
                continue
            sheet = sheets[name] if name in sheets else self.table(name)
            searched.append(name)
            if column in sheet:
                ids = sheet.text(key)
                sheet.distinct(ids, key)
                return sheet.typed(column).set_axis(ids)[sheet.good]
        raise InputError(
            f"covariates: no column {column!r} in {', '.join(searched)}; correct its name or add it"
        )


def check_categories(concepts: Mapping[str, str]) -> None:
    """Refuse concepts that are neither a finding category nor a class.

    Raises
    ------
    InputError
        If a concept is neither. The error names the first one, and all allowed values.
    """
    unknown = sorted(set(concepts.values()) - CATEGORIES - CLASSES.keys())
    if unknown:
        raise InputError(
            f"concepts: {unknown[0]!r} is neither a finding category of this dataset nor a class; "
            f"choose from {', '.join([*sorted(CATEGORIES), *CLASSES])}"
        )


def parse_density(text: str) -> str:
    """Return A to D. Raise ValueError if the text is not a density."""
    found = re.fullmatch(r"(?:DENSITY )?([A-D])", text, re.IGNORECASE)
    if not found:
        raise ValueError
    return found[1].upper()


def parse_birads(text: str) -> int:
    """Return 0 to 6. Raise ValueError if the text is not an assessment."""
    found = re.fullmatch(r"(?:BI-RADS )?([0-6])", text, re.IGNORECASE)
    if not found:
        raise ValueError
    return int(found[1])


def parse_size(text: str) -> int:
    """Return a number of pixels. Raise ValueError if the text is not a positive whole number."""
    value = float(text)
    if value != int(value) or value < 1:
        raise ValueError
    return int(value)


def _spacing(text: str) -> float:
    plain = re.sub("['\"]", "", text).strip("[]() ")
    numbers = [number(part) for part in re.split(r"[,\\\s]+", plain)]
    if not 1 <= len(numbers) <= 2 or min(numbers) <= 0:
        raise ValueError
    return sum(numbers) / len(numbers)


def _metadata(sheet: Sheet) -> pd.DataFrame:
    """Return manufacturer, model, spacing and age bin by source image id."""
    empty: list[None] = [None] * len(sheet)

    def optional(
        column: str, parse: Callable[[str], T], expected: str, *, private: bool = False
    ) -> Sequence[T | None]:
        return sheet.parsed(column, parse, expected, private=private) if column in sheet else empty

    for column in ("Manufacturer", "Manufacturer's Model Name", "Patient's Age"):
        if column not in sheet:
            sheet.notices[f"has no column {column!r}: it is unknown for all images"] = None
    if not {"Pixel Spacing", "Imager Pixel Spacing"} & set(sheet.frame.columns):
        sheet.notices["has no column 'Imager Pixel Spacing': it is unknown for all images"] = None
    pixel = optional("Pixel Spacing", _spacing, "one or two lengths in mm")
    imager = optional("Imager Pixel Spacing", _spacing, "one or two lengths in mm")
    table = pd.DataFrame(
        {
            "manufacturer": optional("Manufacturer", str, "text"),
            "model": optional("Manufacturer's Model Name", str, "text"),
            "pixel_spacing_mm": [
                at_detector if in_plane is None else in_plane
                for in_plane, at_detector in zip(pixel, imager, strict=True)
            ],
            "age_bin": [
                age_bin(a)
                for a in optional("Patient's Age", age_in_years, "an age like 053Y", private=True)
            ],
        },
        index=sheet.text(METADATA_ID),
    )
    return table[sheet.good]


def _findings(sheet: Sheet, known: set[str]) -> tuple[dict[str, set[str]], pd.DataFrame, int]:
    """Return the categories of each image, the boxes, and the number of findings without a box."""
    ids = sheet.text("image_id")
    categories = sheet.required(
        "finding_categories", parse_categories, "a list of known categories"
    )
    corners = [sheet.parsed(name, number, "a number") for name in BOX]
    of_image: dict[str, set[str]] = {}
    rows: list[tuple[Any, ...]] = []
    without_box = 0
    for row, (image, found, *box) in enumerate(zip(ids, categories, *corners, strict=True)):
        if image not in known:
            sheet.leave_out(row, "image_id", f"names an image that is not in {BREASTS}")
        if not sheet.good_row(row):
            continue
        of_image.setdefault(image, set()).update(found)
        wanted = dict.fromkeys(category for category in found if category != NO_FINDING)
        if None in box:
            without_box += len(wanted)
            continue
        if wanted and not (box[0] < box[2] and box[1] < box[3]):
            sheet.note(row, "xmax", "gives no box: a minimum is not below its maximum")
            without_box += len(wanted)
            continue
        rows.extend((image, category, *box) for category in wanted)
    return of_image, pd.DataFrame(rows, columns=FINDING_COLUMNS), without_box


def finding_rows(sheet: Sheet, images: pd.DataFrame, concepts: Mapping[str, str]) -> pd.DataFrame:
    """Return a table with source_image, concept, and the numbers of `rows` and `positive` rows.

    An image that the table of findings does not name counts as one negative row. A class of a
    column (density, BI-RADS) belongs to the image, so it is present in all of the image's rows or
    in none.
    """
    found = sheet.required("finding_categories", parse_categories, "a list of known categories")
    ids = [i for i, good in zip(sheet.text("image_id"), sheet.good, strict=True) if good]
    # A good row has a list.
    lists = [names or () for names, good in zip(found, sheet.good, strict=True) if good]
    rows = pd.Series(ids).value_counts().reindex(images["source_image"]).fillna(1).astype("Int32")
    parts = []
    for concept, category in concepts.items():
        part = pd.DataFrame({"source_image": images["source_image"], "concept": concept})
        known = images[concept].notna().to_numpy()
        part["rows"] = rows.where(known, 0).to_numpy()
        if category in CLASSES:
            has = images[concept].fillna(0).astype(int).to_numpy()
            part["positive"] = (part["rows"] * has).to_numpy()
        else:
            hits = pd.Series([i for i, names in zip(ids, lists, strict=True) if category in names])
            counted = hits.value_counts().reindex(images["source_image"]).fillna(0)
            part["positive"] = counted.to_numpy()
        parts.append(part.astype({"rows": "Int32", "positive": "Int32"}))
    if not parts:
        return pd.DataFrame(columns=["source_image", "concept", "rows", "positive"])
    return pd.concat(parts, ignore_index=True)


def parse_categories(text: str) -> Sequence[str]:
    """Return the categories of a finding. Raise ValueError if the text is not a list of them."""
    found = ast.literal_eval(text)
    if not isinstance(found, list) or not set(found) <= CATEGORIES:
        raise ValueError
    return found


READER = VindrReader
