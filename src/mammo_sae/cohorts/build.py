"""The step that turns a dataset's annotations into the cohort's two tables."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_sae.cohorts.pseudonyms import Pseudonyms, load_pseudonyms, without_paths
from mammo_sae.cohorts.readers import read_source
from mammo_sae.cohorts.settings import CohortSettings, UnsplitCohort
from mammo_sae.cohorts.tables import (
    BOX,
    FINDING_COLUMNS,
    SPLITS,
    validated_findings,
    validated_images,
)
from mammo_sae.provenance import Provenance
from mammo_sae.stores.publish import write_json
from mammo_sae.stores.tables import write_table


def run(
    settings: CohortSettings,
    sources: Sequence[Path],
    images: Path,
    findings: Path,
    manifest: Path,
    provenance: Provenance | None = None,
) -> None:
    """Write the images and findings tables of a cohort, and a summary of them.

    Parameters
    ----------
    settings
        The cohort.
    sources
        Its folders, see `mammo_sae.cohorts.readers.read_source`.
    images, findings
        The tables to write (.parquet), see `mammo_sae.cohorts.tables`.
    manifest
        JSON written last: counts per split and concept, boxes clipped or dropped, digests.
    provenance
        Written beside the manifest as `provenance.json`.

    Raises
    ------
    InputError
        If the sources are missing or malformed; nothing is written then.
    """
    source = read_source(settings, sources)
    pseudonyms = load_pseudonyms(settings.key_file)
    image_table = validated_images(
        _with_pseudonyms(source.images, settings, pseudonyms),
        list(settings.concepts),
        list(settings.covariates),
    )
    boxes = source.findings.assign(
        image_id=[pseudonyms.image(i) for i in source.findings["source_image"]]
    )
    clipped, counts = _clipped(boxes, image_table)
    finding_table = validated_findings(clipped, image_table)

    manifest.unlink(missing_ok=True)
    write_table(image_table, images)
    write_table(finding_table, findings)
    if provenance is not None:
        record = without_paths(provenance).model_dump(mode="json")
        write_json(manifest.with_name("provenance.json"), record)
    write_json(
        manifest,
        {
            "kind": "cohort",
            "tables": {path.name: _digest(path) for path in (images, findings)},
            "counts": {**dict(source.counts), **counts},
            "splits": _summary(image_table, finding_table, list(settings.concepts)),
        },
    )


def _with_pseudonyms(
    frame: pd.DataFrame, settings: CohortSettings, pseudonyms: Pseudonyms
) -> pd.DataFrame:
    patients = frame["source_patient"]
    shards = {p: pseudonyms.shard(p, settings.shards) for p in patients.unique()}
    share = patients.map({p: pseudonyms.share(p) for p in patients.unique()})
    # Datasets without a split of their own come as training alone.
    test = settings.test_share if isinstance(settings, UnsplitCohort) else 0.0
    held_out = test + (1 - test) * settings.validation_share
    training = frame["split"] == "training"
    return frame.assign(
        image_id=[pseudonyms.image(i) for i in frame["source_image"]],
        patient_id=[pseudonyms.patient(p) for p in patients],
        shard=patients.map(shards),
        split=frame["split"]
        .mask(training & (share < held_out), "validation")
        .mask(training & (share < test), "test"),
    )


def _clipped(boxes: pd.DataFrame, images: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Cut boxes at their image's edges and drop those wholly outside; count both."""
    size = images.set_index("image_id").loc[boxes["image_id"], ["rows", "columns"]]
    width, height = size["columns"].to_numpy(float), size["rows"].to_numpy(float)
    before = boxes[BOX].to_numpy(float)
    after = boxes[FINDING_COLUMNS].copy()
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


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
