"""The step that turns a dataset's annotations into the cohort's two tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mammo_sae.cohorts.annotations import Annotations, clipped, read_annotations
from mammo_sae.cohorts.columns import BOX
from mammo_sae.cohorts.draw import splits_of_patients
from mammo_sae.cohorts.left_out import report
from mammo_sae.cohorts.pseudonyms import Pseudonyms, load_pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.cohorts.regions import REGIONS
from mammo_sae.cohorts.tables import SPLITS, validated_findings, validated_images
from mammo_sae.cohorts.units import FINDING, IMAGE, row_columns
from mammo_sae.dicom.refusal import Policy
from mammo_sae.errors import InputError, counted
from mammo_sae.stores.checksums import file_digest
from mammo_sae.stores.publish import write_json
from mammo_sae.stores.tables import write_table

if TYPE_CHECKING:
    from mammo_sae.cohorts.settings import CohortSettings


def run(
    settings: CohortSettings,
    sources: Sequence[Path],
    images: Path,
    findings: Path,
    summary: Path,
) -> list[Path]:
    """Read an archive's annotations into the tables of images and findings, and a summary.

    Parameters
    ----------
    settings
        The settings of the cohort.
    sources
        The folders of the cohort, see `mammo_sae.cohorts.readers.Sources`.
    images, findings
        The tables to write (.parquet), see `mammo_sae.cohorts.tables`.
    summary
        A JSON file that is written last: counts per split and concept, clipped and dropped boxes,
        pseudonyms of images without an annotation, malformed rows of the tables, notices, digests.

    Raises
    ------
    InputError
        If the sources are missing or malformed, or if they contain files without an annotation and
        the settings refuse these. Nothing is written then.
    """
    pseudonyms = load_pseudonyms(settings.key_file)
    opened = Sources(settings.kind, sources)
    regions = opened.regions_of(settings.concepts)
    found, image_table, finding_table, counts = read_tables(settings, opened, pseudonyms)

    strays = check_strays(opened, settings.unannotated, pseudonyms)
    report(found.malformed)
    for patient in found.torn:
        print(f"left out: patient {patient}, whose images are in two splits", file=sys.stderr)
    for notice in found.notices:
        print(f"warning: {notice}", file=sys.stderr)

    summary.unlink(missing_ok=True)
    # The table tells the steps that read masks which regions of an image store belong to a concept.
    image_table.attrs[REGIONS] = {name: list(of) for name, of in regions.items()}
    write_table(image_table, images)
    write_table(finding_table, findings)
    write_json(
        summary,
        {
            "kind": "cohort",
            "tables": {path.name: file_digest(path) for path in (images, findings)},
            "counts": {
                "unreadable_images_dropped": len(found.lost),
                "malformed_rows": len(found.malformed),
                "patients_in_two_splits_dropped": len(found.torn),
                **found.counts,
                **counts,
            },
            "files_without_annotation": strays,
            "malformed_rows": [asdict(row) for row in found.malformed],
            "notices": list(found.notices),
            "splits": _summary(image_table, finding_table, list(settings.concepts)),
        },
    )
    return [images, findings, summary]


def read_tables(
    settings: CohortSettings, sources: Sources, pseudonyms: Pseudonyms
) -> tuple[Annotations, pd.DataFrame, pd.DataFrame, dict[str, int]]:
    """Return the annotations, the validated tables of images and findings, and counts of boxes.

    Raises
    ------
    InputError
        If the sources are missing or malformed, or if rows of findings are to be scored and there
        are none.
    """
    found = read_annotations(
        sources,
        settings.concepts,
        settings.covariates,
        pseudonyms,
        most_malformed=settings.most_malformed,
    )
    images = validated_images(
        _with_split(found, settings, pseudonyms),
        list(settings.concepts),
        list(settings.covariates),
    )
    regions = sources.regions_of(settings.concepts)
    boxes, counts = clipped(_concept_boxes(found.boxes, regions), found.images)
    findings = validated_findings(boxes, images)
    if getattr(settings, "labels", IMAGE) == FINDING:
        images = _with_rows(images, found.finding_rows, list(settings.concepts))
    return found, images, findings, counts


def _with_split(
    found: Annotations, settings: CohortSettings, pseudonyms: Pseudonyms
) -> pd.DataFrame:
    """Return the images table with two further columns: the shard and the split of the patient."""
    patients = found.images["source_patient"]
    shards = {p: pseudonyms.shard(p, settings.shards) for p in patients.unique()}
    splits = splits_of_patients(found.labels, settings.concepts, settings, pseudonyms)
    return found.images.assign(shard=patients.map(shards), split=patients.map(splits))


def _with_rows(
    images: pd.DataFrame, rows: pd.DataFrame | None, concepts: Sequence[str]
) -> pd.DataFrame:
    """Return the images table with two columns per concept that count its rows of findings."""
    if rows is None:
        raise InputError(
            "cohort.labels is finding, but the source has no table with a row per finding; set "
            "cohort.labels to image"
        )
    result = images.copy()
    for concept in concepts:
        own = rows[rows["concept"] == concept].set_index("image_id")
        for name, column in zip(row_columns(concept), ("rows", "positive"), strict=True):
            result[name] = own[column].reindex(images["image_id"]).fillna(0).to_numpy(dtype="int32")
    return result


def _concept_boxes(boxes: pd.DataFrame, regions: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return one row per box and concept. A box has several rows if concepts share its category."""
    parts = [
        boxes[boxes["category"].isin(categories)].assign(concept=concept)
        for concept, categories in regions.items()
    ]
    if not parts:  # a cohort without labels
        parts = [boxes.iloc[:0].assign(concept="")]
    return pd.concat(parts, ignore_index=True)[["image_id", "concept", *BOX]]


def check_strays(sources: Sources, policy: Policy, pseudonyms: Pseudonyms) -> list[str]:
    """Return the sorted pseudonyms of files without an annotation, and warn about them.

    Raises
    ------
    InputError
        If there are such files and the policy is to refuse them.
    """
    strays = sorted(pseudonyms.image(name) for name in sources.strays())
    if not strays or policy == "accept":
        return strays
    what = counted(len(strays), "file of the source has", "files of the source have")
    what += f" no annotation, the first is image {strays[0]}"
    if policy == "refuse":
        raise InputError(
            f"{what}; annotate or remove them, or change the policy cohort.unannotated"
        )
    print(f"warning: {what}; the quarantine table lists them", file=sys.stderr)
    return strays


def _summary(
    images: pd.DataFrame, findings: pd.DataFrame, concepts: Sequence[str]
) -> dict[str, Any]:
    out = {}
    for split in SPLITS:
        part = images[images["split"] == split]
        if part.empty:
            continue
        boxes = findings[findings["image_id"].isin(part["image_id"])]["concept"].value_counts()
        out[split] = {
            "patients": int(part["patient_id"].nunique()),
            "images": len(part),
            "positive_images": {c: int((part[c] == 1).sum()) for c in concepts},
            "boxes": {c: int(boxes.get(c, 0)) for c in concepts},
        }
    return out
