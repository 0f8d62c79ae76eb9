"""The one place that knows which reader a cohort's settings ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mammo_sae.cohorts import vindr
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.settings import CohortSettings, VindrCohort
from mammo_sae.cohorts.source import SourceCohort, SourceFiles
from mammo_sae.errors import InputError


def read_source(settings: CohortSettings, sources: Sequence[Path]) -> SourceCohort:
    """Read the annotations of all `sources` of a cohort, one after the other.

    Parameters
    ----------
    settings
        The cohort.
    sources
        Its folders: of the phantom the parts of its archive; of VinDr the folder and, if the
        settings have one, the external folder, whose images become the split `external`.

    Raises
    ------
    InputError
        If something is missing or malformed, naming it.
    """
    parts = []
    for position, folder in enumerate(sources):
        external = isinstance(settings, VindrCohort) and position > 0
        parts.append(
            vindr.read_folder(
                folder, settings.concepts, settings.covariates, "external" if external else None
            )
        )
    return SourceCohort(
        images=pd.concat([part.images for part in parts], ignore_index=True),
        findings=pd.concat([part.findings for part in parts], ignore_index=True),
        counts={name: sum(part.counts[name] for part in parts) for name in (parts[0].counts)},
    )


def locate(key_file: str | None, sources: Sequence[Path]) -> dict[str, SourceFiles]:
    """Return the files of every image by pseudonym, found again in the sources each time.

    Raises
    ------
    InputError
        If a source is missing or two images share a pseudonym.
    """
    pseudonyms = load_pseudonyms(key_file)
    found: dict[str, SourceFiles] = {}
    for folder in sources:
        for source_id, files in vindr.locate_folder(folder).items():
            image_id = pseudonyms.image(source_id)
            if image_id in found:
                raise InputError(f"image {image_id} occurs twice in the cohort's sources")
            found[image_id] = files
    return found
