"""VinDr-Mammo after Mammo-CLIP's preprocessing: PNGs and one table of findings.

::

    images_png/<patient_id>/<image_id>.png
    vindr_detection_v1_folds.csv     one row per finding
    clip_vindr_final.csv             or this table: one row per breast, no boxes

A study counts as a patient. In the first table `height`, `width` and `xmin` to `ymax` are in pixels
of the original matrix. `resized_xmin` to `resized_ymax` are in pixels of an image of 1520 x 912 for
files of any size, because the crop is stretched to this size (src/preprocessing of
batmanlab/Mammo-CLIP).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from mammo_sae.cohorts.columns import BOX
from mammo_sae.cohorts.mammo_clip_boxes import RESIZED, boxes_in_files
from mammo_sae.cohorts.mammo_clip_breasts import SIDES, VIEWS, breast_images, breasts
from mammo_sae.cohorts.reader import Reader
from mammo_sae.cohorts.sheet import Sheet
from mammo_sae.cohorts.source import FINDING_COLUMNS, Keep, SourceCohort, SourceFiles
from mammo_sae.cohorts.tables import SPLITS
from mammo_sae.cohorts.vindr import (
    CATEGORIES,
    CLASSES,
    check_categories,
    parse_birads,
    parse_categories,
    parse_density,
)
from mammo_sae.errors import InputError

FOLDS = "vindr_detection_v1_folds.csv"
FINAL = "clip_vindr_final.csv"
NEEDED = {
    FOLDS: (
        *("patient_id", "image_id", "split", "view", "laterality"),
        *("breast_density", "breast_birads", "finding_categories", "height", "width"),
    ),
    FINAL: ("patient_id", "laterality", *VIEWS, *(f"{view}_FINDING" for view in VIEWS)),
}
FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}


class MammoClipReader(Reader):
    """A folder with the output of Mammo-CLIP's preprocessing."""

    tables = (FOLDS, FINAL)
    pattern = "images_png/*/*"

    def annotations(
        self,
        concepts: Mapping[str, str],
        covariates: Mapping[str, str],
        split: str | None = None,
        keep: Keep | None = None,
    ) -> SourceCohort:
        """Read the table of a folder and the sizes of its images.

        Parameters
        ----------
        concepts
            As for `mammo_sae.cohorts.vindr.VindrReader`. An image is positive if any of its rows is
            positive.
        covariates
            Covariate name -> column of the table; an image's first row counts.

        Raises
        ------
        InputError
            If something is missing or malformed. The error names the missing file, or the file,
            line and column.
        """
        check_categories(concepts)
        sheet = self._table().only("patient_id", keep)
        if sheet.name == FINAL:
            images = breast_images(sheet, concepts, covariates, split)
            without = int(images[[*concepts]].sum().sum())
            boxes = pd.DataFrame(columns=FINDING_COLUMNS)
            images, counts = self._with_sizes(images), {"findings_without_box": without}
            return SourceCohort(images, boxes, counts, sheets=(sheet,))
        return self._read_findings(sheet, concepts, covariates, split)

    def files(self, keep: Keep | None = None) -> dict[str, SourceFiles]:
        """Return the files of the images of a folder, by source image id. They need not exist.

        Raises
        ------
        InputError
            If the table is missing or malformed.
        """
        sheet = self._table().only("patient_id", keep)
        if sheet.name == FINAL:
            shown = [
                (image, patient, f"{side}\t{view}")
                for _, patient, side, view, image, _ in breasts(sheet)
            ]
        else:
            categories = [name.replace(" ", "_") for name in sorted(CATEGORIES)]
            columns = ["laterality", "view", "height", "width", "finding_categories", *categories]
            cells = sheet.cells([*columns, *BOX, *RESIZED])
            rows = zip(_image_ids(sheet), sheet.text("patient_id"), cells, sheet.good, strict=True)
            shown = [row[:3] for row in rows if row[3]]
        found: dict[str, SourceFiles] = {}
        for image, patient, text in shown:
            before = [found[image].annotation] if image in found else []
            in_patient = self.folder / "images_png" / patient
            found[image] = SourceFiles(
                dicom=self.listings.find(in_patient, image) or in_patient / f"{image}.png",
                patient=patient,
                annotation="\n".join([*before, text]),
            )
        return found

    def _table(self) -> Sheet:
        for name in self.tables:
            if (self.folder / name).is_file():
                sheet = self.table(name, needed=NEEDED[name])
                sheet.ids("patient_id", files=True)
                # An image of two patients belongs to neither, so it must be found before patients
                # are selected.
                if name == FOLDS:
                    sheet.ids("image_id", files=True)
                    owners = pd.DataFrame({"of": _image_ids(sheet), "by": sheet.text("patient_id")})
                    several = owners.groupby("of")["by"].transform("nunique") > 1
                    for row in owners.index[several]:
                        sheet.leave_out(int(row), "image_id", "is an image of two patients")
                else:
                    list(breasts(sheet))
                return sheet
        raise InputError(
            f"the source has neither {FOLDS} nor {FINAL}; the cohort needs one of them"
        )

    def _read_findings(
        self,
        sheet: Sheet,
        concepts: Mapping[str, str],
        covariates: Mapping[str, str],
        split: str | None,
    ) -> SourceCohort:
        rows = pd.DataFrame(
            {
                "source_image": _image_ids(sheet),
                "source_patient": sheet.text("patient_id"),
                "split": [split] * len(sheet)
                if split
                else sheet.chosen("split", {name: name for name in SPLITS}),
                "view": sheet.chosen("view", {view: view for view in VIEWS}),
                "side": sheet.chosen("laterality", SIDES),
                "density": sheet.parsed(
                    "breast_density", parse_density, "'DENSITY A' to 'DENSITY D'"
                ),
                "birads": sheet.parsed("breast_birads", parse_birads, "'BI-RADS 0' to 'BI-RADS 6'"),
            }
        )
        _check_rows_agree(sheet, rows)
        for name, column in covariates.items():
            rows[name] = sheet.typed(column)
        labels = _labels(sheet, rows, concepts)
        # The content of a malformed row is unknown, so its image is left out.
        in_doubt = set(rows["source_image"][~sheet.good])
        mentioned = sheet.mentioned(sheet.text("image_id"))
        in_doubt |= {image.removesuffix(".png") for image in mentioned}
        counted = ~rows["source_image"].isin(in_doubt)
        every, rows, labels = rows["source_image"], rows[counted], labels[counted]
        first = ~rows["source_image"].duplicated()
        images = rows[first].reset_index(drop=True)
        per_image = labels.groupby(rows["source_image"])
        # A class that is missing in the table is unknown for the image too.
        positive = per_image.max()
        is_open = labels.isna().groupby(rows["source_image"]).any() & (positive != 1).fillna(True)
        positive = positive.mask(is_open).reindex(images["source_image"])
        for concept in concepts:
            images[concept] = positive[concept].astype("Int8").to_numpy()
        images = self._with_sizes(images)
        boxes, counts = boxes_in_files(sheet, every, images)
        counted_rows = _finding_rows(labels, rows["source_image"])
        return SourceCohort(images, boxes, counts, counted_rows, (sheet,))

    def _with_sizes(self, images: pd.DataFrame) -> pd.DataFrame:
        """Return `images` with the columns that come from the image files."""
        # Imported here because code that only locates files needs no pydicom.
        from mammo_sae.cohorts.facts import header_columns

        located = self.files(set(images["source_patient"]).__contains__)
        return images.assign(
            **header_columns([located[image].dicom for image in images["source_image"]])
        )


def _image_ids(sheet: Sheet) -> list[str]:
    """Return image ids as in VinDr-Mammo. In this table they have the suffix of the file."""
    return [image.removesuffix(".png") for image in sheet.text("image_id")]


def _check_rows_agree(sheet: Sheet, rows: pd.DataFrame) -> None:
    """Leave out rows that contradict the first row of their image."""
    for name, column in (
        ("source_patient", "patient_id"),
        ("view", "view"),
        ("side", "laterality"),
        ("split", "split"),
    ):
        expected = rows.groupby("source_image")[name].transform("first")
        for row in rows.index[(rows[name] != expected) & rows[name].notna()]:
            sheet.leave_out(int(row), column, "differs from an earlier row of the same image")


def _labels(sheet: Sheet, rows: pd.DataFrame, concepts: Mapping[str, str]) -> pd.DataFrame:
    """Return each row's label, Int8 [rows, concepts]: 1, 0, or NA if it is unknown."""
    said = "finding_categories"
    listed = sheet.required(said, parse_categories, "a list of known categories")
    labels = pd.DataFrame(index=rows.index)
    for concept, category in concepts.items():
        column = category.replace(" ", "_")
        if category in CLASSES:
            name, value = CLASSES[category]
            labels[concept] = [None if pd.isna(v) else int(v == value) for v in rows[name]]
        elif column in sheet:  # the column that the published code scores
            labels[concept] = _agreeing(sheet, column, category, listed)
        else:
            labels[concept] = [int(category in (names or ())) for names in listed]
    return labels.astype("Int8")


def _agreeing(
    sheet: Sheet, column: str, category: str, listed: Sequence[Sequence[str] | None]
) -> list[int | None]:
    """Return a column of flags, None if a flag is malformed or contradicts the listed findings.

    A row with such a flag is kept, because labels do not decide which images are converted.
    """
    flags = sheet.parsed(column, FLAGS.__getitem__, " or ".join(FLAGS))
    for row, (flag, names) in enumerate(zip(flags, listed, strict=True)):
        if flag is not None and names is not None and flag != (category in names):
            sheet.note(row, column, "contradicts the row's finding_categories")
            flags[row] = None
    return flags


def _finding_rows(labels: pd.DataFrame, image: pd.Series) -> pd.DataFrame:
    """Return a table with source_image, concept, and the numbers of `rows` and `positive` rows."""
    long = labels.assign(source_image=image).melt(
        "source_image", var_name="concept", value_name="label"
    )
    grouped = long.groupby(["source_image", "concept"], sort=False)["label"]
    counted = grouped.agg(rows="count", positive="sum").reset_index()
    return counted.astype({"rows": "Int32", "positive": "Int32"})


READER = MammoClipReader
