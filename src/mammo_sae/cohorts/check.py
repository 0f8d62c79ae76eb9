"""A check of a cohort's own tables before Snakemake starts a job or removes its outputs.

Snakemake removes the outputs of a job before it starts. If only the job found a misspelt cell, the
earlier, good tables would be lost, and all steps that depend on them would run again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from mammo_sae.cohorts.build import check_strays, read_tables
from mammo_sae.cohorts.facts import files_unread
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.readers import Sources, reader_module
from mammo_sae.cohorts.settings import CohortSettings
from mammo_sae.digests import code_digest
from mammo_sae.settings import canonical_json
from mammo_sae.stores.publish import write_json


def check_tables(settings: CohortSettings, sources: Sequence[Path], state: str, kept: Path) -> str:
    """Read a cohort's tables as the steps `cohort` and `splits` do, without reading images.

    Parameters
    ----------
    settings, sources
        The settings of the cohort, and its folders.
    state
        Digest of the archive's current content (`mammo_sae.cohorts.state.ArchiveState.tables`).
    kept
        File with the states that passed the check before. These are not checked again.

    Returns
    -------
    str
        Digest of the table of splits. An edit that changes only labels does not change it, so steps
        that need no label do not run again.

    Raises
    ------
    InputError
        For the same reasons as the step itself.
    """
    seen = [canonical_json(settings), state, code_digest(__name__, reader_module(settings.kind))]
    digest = _digest("\n".join(seen))
    known = _kept(kept)
    if known.get("checked") == digest:
        return known["splits"]
    pseudonyms = load_pseudonyms(settings.key_file)
    opened = Sources(settings.kind, sources)
    with files_unread():
        _, images, _, _ = read_tables(settings, opened, pseudonyms)
    # With other policies no file is refused, and the step prints the warning.
    if settings.unannotated == "refuse":
        check_strays(opened, settings.unannotated, pseudonyms)
    splits = _digest(images[["image_id", "split"]].to_csv(index=False))
    write_json(kept, {"checked": digest, "splits": splits})
    return splits


def _kept(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
