"""The annotations of a cohort under pseudonyms, of all patients or of one shard's patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from mammo_sae.cohorts.columns import BOX
from mammo_sae.cohorts.left_out import allowed, check_share
from mammo_sae.cohorts.pseudonyms import Pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.cohorts.sheet import LeftOut
from mammo_sae.cohorts.source import Keep
from mammo_sae.errors import InputError


@dataclass(frozen=True)
class Annotations:
    """The annotations of all sources of a cohort.

    Attributes
    ----------
    images
        One row per image whose file can be read. It has `image_id` and `patient_id` and also the
        source's own ids, which must not be stored.
    boxes
        image_id, category, and the box as given in the source, see `clipped`.
    lost
        Pseudonyms of images whose file is missing or is not a readable image.
    counts
        Counts of accepted irregularities, by name.
    labels
        source_patient, split and a column per concept. It has a row per image that the tables name,
        also for files that are missing or can't be read, because files do not affect the draw of
        splits.
    finding_rows
        image_id, concept, rows, positive, see `mammo_sae.cohorts.source`; None if the source has no
        rows of findings.
    malformed
        Rows of the tables that were left out, and rows with a malformed cell that counts as empty.
    torn
        Pseudonyms of patients whom the tables list in two splits. These patients are left out.
    notices
        Further remarks on the tables for the user, one sentence each.
    """

    images: pd.DataFrame
    boxes: pd.DataFrame
    lost: tuple[str, ...]
    counts: Mapping[str, int]
    labels: pd.DataFrame
    finding_rows: pd.DataFrame | None = None
    malformed: tuple[LeftOut, ...] = ()
    torn: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


def read_annotations(
    sources: Sources,
    concepts: Mapping[str, str],
    covariates: Mapping[str, str],
    pseudonyms: Pseudonyms,
    keep: Keep | None = None,
    most_malformed: float = 1.0,
) -> Annotations:
    """Read the annotations of the patients to `keep`, or of all patients.

    Parameters
    ----------
    sources
        The cohort's folders.
    concepts, covariates, keep
        As for `mammo_sae.cohorts.readers.Sources.annotations`.
    pseudonyms
        The pseudonyms of the cohort.
    most_malformed
        Largest share of a table's rows that may be malformed, and of the patients who may be in two
        splits. It is checked only where all patients are read.

    Raises
    ------
    InputError
        If something is missing or malformed (the error names it), or if all patients are read and
        no image has a readable file.
    """
    source = sources.annotations(concepts, covariates, keep)
    if keep is None:
        check_share(source.sheets, most_malformed)
    unreadable = source.images["rows"].isna()
    if keep is None and len(unreadable) and unreadable.all():
        raise InputError(
            f"none of the {len(unreadable)} images that the tables name can be read in "
            f"{' and '.join(map(str, sources.folders))}; they are looked for in "
            f"{sources.reader.pattern}, "
            "as DICOM, PNG, JPEG, TIFF or NPY files: correct cohort.source, or cohort.kind"
        )
    torn = _torn(source.images)
    if keep is None and len(torn) > allowed(
        source.images["source_patient"].nunique(), most_malformed
    ):
        raise InputError(
            f"patient {pseudonyms.patient(torn[0])} is in two splits, as are {len(torn) - 1} other "
            f"patients, more than cohort.most_malformed = {most_malformed:g} allows; a patient's "
            "images must stay together"
        )
    whole = ~source.images["source_patient"].isin(torn)
    labels = source.images.loc[whole, ["source_patient", "split", *concepts]]
    images = source.images[~unreadable & whole]
    images = images.assign(
        image_id=[pseudonyms.image(i) for i in images["source_image"]],
        patient_id=[pseudonyms.patient(p) for p in images["source_patient"]],
    )
    twice = images["image_id"][images["image_id"].duplicated()]
    if len(twice):
        raise InputError(
            f"image {twice.iloc[0]} occurs twice in the cohort's sources; remove one of them"
        )
    of_images = source.findings["source_image"].isin(images["source_image"])
    found = source.findings[of_images]
    boxes = found.assign(image_id=[pseudonyms.image(i) for i in found["source_image"]])
    boxes = boxes[["image_id", "category", *BOX]]
    lost = tuple(pseudonyms.image(i) for i in source.images["source_image"][unreadable])
    rows = source.finding_rows
    if rows is not None:
        rows = rows[rows["source_image"].isin(images["source_image"])]
        rows = rows.assign(image_id=[pseudonyms.image(i) for i in rows["source_image"]])
        rows = rows[["image_id", "concept", "rows", "positive"]]
    malformed = tuple(row for sheet in source.sheets for row in sheet.named())
    notices = tuple(f"{sheet.name}: {text}" for sheet in source.sheets for text in sheet.notices)
    of_torn = tuple(sorted(pseudonyms.patient(patient) for patient in torn))
    return Annotations(
        images, boxes, lost, source.counts, labels, rows, malformed, of_torn, notices
    )


def _torn(images: pd.DataFrame) -> list[str]:
    """Return the source's ids of the patients who are in two splits, sorted."""
    splits = images.groupby("source_patient")["split"].nunique()
    return sorted(splits.index[splits > 1])


def clipped(boxes: pd.DataFrame, images: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return boxes cut at the image's edges, and the numbers of kept, cut and dropped boxes.

    Boxes that lie wholly outside of their image are dropped.
    """
    size = images.set_index("image_id").loc[boxes["image_id"], ["rows", "columns"]]
    width, height = size["columns"].to_numpy(float), size["rows"].to_numpy(float)
    before = boxes[BOX].to_numpy(float)
    after = boxes.copy()
    after[BOX] = before
    after["xmin"], after["xmax"] = after["xmin"].clip(0), after["xmax"].clip(upper=width)
    after["ymin"], after["ymax"] = after["ymin"].clip(0), after["ymax"].clip(upper=height)
    inside = (after["xmin"] < after["xmax"]) & (after["ymin"] < after["ymax"])
    changed = (after[BOX].to_numpy(float) != before).any(axis=1)
    counts = {
        "boxes": int(inside.sum()),
        "boxes_clipped": int((changed & inside).sum()),
        "boxes_outside_dropped": int((~inside).sum()),
    }
    return after[inside], counts
