"""The one place that knows which reader a cohort's settings ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from mammo_sae.cohorts import cbis_ddsm, cmmd, embed, inbreast, mammo_clip, rsna, table, vindr
from mammo_sae.cohorts.image_files import is_image_name
from mammo_sae.cohorts.pseudonyms import Pseudonyms
from mammo_sae.cohorts.source import Keep, SourceCohort, SourceFiles
from mammo_sae.errors import InputError

READERS = {
    "phantom": vindr,
    "vindr": vindr,
    "mammo_clip": mammo_clip,
    "table": table,
    "rsna": rsna,
    "cbis_ddsm": cbis_ddsm,
    "inbreast": inbreast,
    "embed": embed,
    "cmmd": cmmd,
}
"""Kind of cohort -> module with `read_folder`, `locate_folder`, `TABLES` and `PATTERN`."""


def read_source(
    kind: str,
    sources: Sequence[Path],
    concepts: Mapping[str, str],
    covariates: Mapping[str, str],
    keep: Keep | None = None,
) -> SourceCohort:
    """Read the annotations of all `sources` of a cohort, one after the other.

    Parameters
    ----------
    kind
        Kind of the cohort, a key of `READERS`.
    sources
        Its folders: of the phantom the parts of its archive; else the source and, if the settings
        have one, the external folder, whose images become the split `external`.
    concepts, covariates
        Name -> what the source calls it.
    keep
        Which patients to read; all without it.

    Raises
    ------
    InputError
        If something is missing or malformed, naming it.
    """
    parts = []
    for position, folder in enumerate(sources):
        split = "external" if kind != "phantom" and position > 0 else None
        _check_folder(folder)
        parts.append(READERS[kind].read_folder(folder, concepts, covariates, split, keep))
    rows = [part.finding_rows for part in parts if part.finding_rows is not None]
    return SourceCohort(
        images=pd.concat([part.images for part in parts], ignore_index=True),
        findings=pd.concat([part.findings for part in parts], ignore_index=True),
        counts={name: sum(part.counts.get(name, 0) for part in parts) for name in parts[0].counts},
        finding_rows=pd.concat(rows, ignore_index=True) if len(rows) == len(parts) else None,
    )


def locate(
    kind: str, pseudonyms: Pseudonyms, sources: Sequence[Path], keep: Keep | None = None
) -> dict[str, SourceFiles]:
    """Return the files of every image by pseudonym, found again in the sources each time.

    Raises
    ------
    InputError
        If a source is missing or two images share a pseudonym.
    """
    found: dict[str, SourceFiles] = {}
    for folder in sources:
        _check_folder(folder)
        for source_id, files in READERS[kind].locate_folder(folder, keep).items():
            image_id = pseudonyms.image(source_id)
            if image_id in found:
                raise InputError(f"image {image_id} occurs twice in the cohort's sources")
            found[image_id] = files
    return found


def stray_files(kind: str, sources: Sequence[Path]) -> list[str]:
    """Return the images in the sources that no annotation speaks of, by path below their source."""
    reader = READERS[kind]
    found: set[str] = set()
    for folder in sources:
        if reader in (rsna, embed):
            named = reader.named_files(folder)
        else:
            located = reader.locate_folder(folder).values()
            named = {file for files in located for file in (files.dicom, *files.others)}
        strays = set(filter(is_image_name, folder.glob(reader.PATTERN))) - named
        found |= {path.relative_to(folder).as_posix() for path in strays}
    return sorted(found)


def masked_regions(kind: str, sources: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Return the categories and the artefacts of which the sources have exact masks, sorted."""
    if READERS[kind] is not vindr:
        return [], []
    names = {name for folder in sources for name in vindr.mask_bits(folder)}
    return sorted(names & vindr.CATEGORIES), sorted(names - vindr.CATEGORIES)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"cohort folder {folder} is missing; correct its path in the settings")
