"""The one place that knows which reader a cohort's settings ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mammo_sae.cohorts import cbis_ddsm, cmmd, embed, inbreast, rsna, table, vindr
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.settings import CohortSettings
from mammo_sae.cohorts.source import SourceCohort, SourceFiles
from mammo_sae.errors import InputError

READERS = {
    "phantom": vindr,
    "vindr": vindr,
    "table": table,
    "rsna": rsna,
    "cbis_ddsm": cbis_ddsm,
    "inbreast": inbreast,
    "embed": embed,
    "cmmd": cmmd,
}
"""Kind of cohort -> module with `read_folder`, `locate_folder` and `TABLES`."""


def read_source(settings: CohortSettings, sources: Sequence[Path]) -> SourceCohort:
    """Read the annotations of all `sources` of a cohort, one after the other.

    Parameters
    ----------
    settings
        The cohort.
    sources
        Its folders: of the phantom the parts of its archive; else the source and, if the settings
        have one, the external folder, whose images become the split `external`.

    Raises
    ------
    InputError
        If something is missing or malformed, naming it.
    """
    parts = []
    for position, folder in enumerate(sources):
        external = settings.kind != "phantom" and position > 0
        _check_folder(folder)
        parts.append(
            READERS[settings.kind].read_folder(
                folder, settings.concepts, settings.covariates, "external" if external else None
            )
        )
    return SourceCohort(
        images=pd.concat([part.images for part in parts], ignore_index=True),
        findings=pd.concat([part.findings for part in parts], ignore_index=True),
        counts={name: sum(part.counts[name] for part in parts) for name in parts[0].counts},
    )


def locate(kind: str, key_file: str | None, sources: Sequence[Path]) -> dict[str, SourceFiles]:
    """Return the files of every image by pseudonym, found again in the sources each time.

    Raises
    ------
    InputError
        If a source is missing or two images share a pseudonym.
    """
    pseudonyms = load_pseudonyms(key_file)
    found: dict[str, SourceFiles] = {}
    for folder in sources:
        _check_folder(folder)
        for source_id, files in READERS[kind].locate_folder(folder).items():
            image_id = pseudonyms.image(source_id)
            if image_id in found:
                raise InputError(f"image {image_id} occurs twice in the cohort's sources")
            found[image_id] = files
    return found


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"cohort folder {folder} is missing; correct its path in the settings")
