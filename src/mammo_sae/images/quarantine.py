"""Step: list every file that was left out of the stores or has a notice, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_sae.cohorts.sheet import LeftOut
from mammo_sae.dicom.refusal import Reason
from mammo_sae.stores.images import IDENTITIES, NOTICES, ImageReader
from mammo_sae.stores.publish import read_json
from mammo_sae.stores.tables import write_table

SENTENCES = {reason.code: reason.value[1] for reason in Reason}
COLUMNS = ["image_id", "action", "reason", "sentence"]


def run(*, image_stores: Sequence[Path], summary: Path, output: Path) -> list[Path]:
    """List the files that were left out or have a notice, with a row per file and reason.

    This step finds duplicates across shards. Both images of such a pair stay converted.

    `action` has three values. `left out`: the file was not converted. `converted`: the policy
    (`images.triage`) let a file with this reason pass. `row`: a row of the source's tables is
    malformed, and the sentence names it.

    Parameters
    ----------
    image_stores
        Manifests of the image stores, all shards.
    summary
        The cohort's summary, which lists files of the sources without an annotation.
    output
        The table (.csv).

    Raises
    ------
    StoreError
        If a store is missing or damaged.
    """
    store, cohort = ImageReader(image_stores), read_json(summary)
    rows = [(image_id, "left out", code) for image_id, code in store.refused().items()]
    rows += [
        (image_id, "left out", Reason.UNANNOTATED.code)
        for image_id in cohort["files_without_annotation"]
    ]
    facts = store.facts(store.image_ids)
    for name in facts.columns.intersection(["triage", NOTICES]):
        for image_id, reasons in zip(store.image_ids, facts[name], strict=True):
            rows += [(image_id, "converted", code) for code in reasons.split(";") if code]
    rows += [(image_id, "converted", Reason.DUPLICATE.code) for image_id in _duplicates(store)]
    table = pd.DataFrame(sorted(set(rows)), columns=COLUMNS[:3])
    table["sentence"] = table["reason"].map(SENTENCES)
    table = pd.concat([table, _rows(cohort.get("malformed_rows", []))], ignore_index=True)
    write_table(table, output)
    return [output]


def _rows(malformed: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return table rows for malformed rows of the source's tables; their `image_id` is empty."""
    found = [("", "row", "malformed_row", str(LeftOut(**row))) for row in malformed]
    return pd.DataFrame(found, columns=COLUMNS)


def _duplicates(store: ImageReader) -> list[str]:
    """Return the images whose content equals that of an earlier image."""
    facts = store.facts(store.image_ids)
    found: set[str] = set()
    for name in facts.columns.intersection(IDENTITIES):
        known = facts[name] != ""
        again = facts[name].duplicated() & known
        found.update(
            image_id for image_id, is_again in zip(store.image_ids, again, strict=True) if is_again
        )
    return sorted(found)
