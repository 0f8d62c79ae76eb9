"""A look at a cohort's own tables before anything is run, or removed for being run.

Snakemake removes the outputs of a job before it starts. A misspelt cell that only the job finds
would take the good tables with it, and all that follows from them would run again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from mammo_sae.cohorts.build import read_tables
from mammo_sae.cohorts.facts import files_unread
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.readers import Sources, reader_module
from mammo_sae.cohorts.settings import CohortSettings
from mammo_sae.digests import code_digest
from mammo_sae.settings import canonical_json


def check_tables(settings: CohortSettings, sources: Sequence[Path], state: str, kept: Path) -> None:
    """Read a cohort's tables as the step `cohort` does, its images unread.

    Parameters
    ----------
    settings, sources
        The cohort and its folders.
    state
        What the archive holds now (`mammo_sae.cohorts.state.ArchiveState.tables`).
    kept
        File that remembers what was found in order: the same is not looked at again.

    Raises
    ------
    InputError
        As the step itself.
    """
    seen = [canonical_json(settings), state, code_digest(__name__, reader_module(settings.kind))]
    digest = hashlib.sha256("\n".join(seen).encode()).hexdigest()
    if kept.is_file() and kept.read_text(encoding="utf-8") == digest:
        return
    pseudonyms = load_pseudonyms(settings.key_file)
    with files_unread():
        read_tables(settings, Sources(settings.kind, sources), pseudonyms)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(digest, encoding="utf-8")
