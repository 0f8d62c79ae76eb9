"""The one place that knows which reader a cohort's settings ask for.

A reader is the module of its dataset's name, with `read_folder`, `locate_folder`, `TABLES` and
`PATTERN`. It is imported when it is asked for, and none is named here. So the code that a cohort
depends on is that of its own reader, and a new reader makes no other dataset's cohort stale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_sae.cohorts.image_files import composed, is_image_name
from mammo_sae.cohorts.pseudonyms import Pseudonyms
from mammo_sae.cohorts.source import Keep, SourceCohort, SourceFiles
from mammo_sae.errors import InputError

# The phantom's archive has the form of VinDr-Mammo.
SAME_FORM = {"phantom": "vindr"}


def reader_module(kind: str) -> str:
    """Return the dotted name of the module that reads cohorts of a kind."""
    return f"{__package__}.{SAME_FORM.get(kind, kind)}"


def reader(kind: str) -> Any:
    """Return the module that reads cohorts of a kind."""
    return import_module(reader_module(kind))


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
        Kind of the cohort, as the settings have it.
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
    parts, wrong = [], []
    for position, folder in enumerate(sources):
        external = kind != "phantom" and position > 0
        try:
            _check_folder(folder)
            split = "external" if external else None
            parts.append(reader(kind).read_folder(folder, concepts, covariates, split, keep))
        except InputError as error:
            wrong.append(f"cohort.external: {error}" if external else str(error))
    if wrong:
        raise InputError("; ".join(wrong))
    rows = [part.finding_rows for part in parts if part.finding_rows is not None]
    return SourceCohort(
        images=pd.concat([part.images for part in parts], ignore_index=True),
        findings=pd.concat([part.findings for part in parts], ignore_index=True),
        counts={name: sum(part.counts.get(name, 0) for part in parts) for name in parts[0].counts},
        finding_rows=pd.concat(rows, ignore_index=True) if len(rows) == len(parts) else None,
        sheets=tuple(sheet for part in parts for sheet in part.sheets),
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
        for source_id, files in reader(kind).locate_folder(folder, keep).items():
            image_id = pseudonyms.image(source_id)
            if image_id in found:
                raise InputError(f"image {image_id} occurs twice in the cohort's sources")
            found[image_id] = files
    return found


def stray_files(kind: str, sources: Sequence[Path]) -> list[str]:
    """Return the images in the sources that no annotation speaks of, by path below their source."""
    module = reader(kind)
    found: set[str] = set()
    for folder in sources:
        if hasattr(module, "named_files"):
            named = module.named_files(folder)
        else:
            located = module.locate_folder(folder).values()
            named = {file for files in located for file in (files.dicom, *files.others)}
        strays = set(filter(is_image_name, folder.glob(module.PATTERN))) - named
        found |= {composed(path.relative_to(folder).as_posix()) for path in strays}
    return sorted(found)


def masked_regions(kind: str, sources: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Return the categories and the artefacts of which the sources have exact masks, sorted."""
    module = reader(kind)
    if not hasattr(module, "mask_bits"):
        return [], []
    names = {name for folder in sources for name in module.mask_bits(folder)}
    return sorted(names & module.CATEGORIES), sorted(names - module.CATEGORIES)


def regions_of(kind: str, concepts: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return what the findings of each concept are called in the source, and so in image stores.

    `concepts`: name -> category. A reader with `NAMES_TOO` has findings called by either.
    """
    if getattr(reader(kind), "NAMES_TOO", False):
        return {name: tuple({name: 0, category: 0}) for name, category in concepts.items()}
    return {name: (category,) for name, category in concepts.items()}


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"cohort folder {folder} is missing; correct its path in the settings")
