"""Find the files of a pseudonym. This needs the source and the key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mammo_sae.cohorts.image_files import file_in
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.cohorts.settings import CohortSettings
from mammo_sae.errors import InputError


def find_files(
    settings: CohortSettings, sources: Sequence[Path], pseudonym: str
) -> list[tuple[str, Path]]:
    """Return (pseudonym, file) of an image, or of all images of a patient, sorted.

    The pseudonyms of all ids of the sources are computed again. Nothing is written.

    Raises
    ------
    InputError
        If a source can't be read, or no image or patient in it has the pseudonym.
    """
    pseudonyms = load_pseudonyms(settings.key_file)
    wanted = pseudonym.strip().lower()
    opened = Sources(settings.kind, sources)
    found = [
        (image_id, files.dicom)
        for image_id, files in opened.files(pseudonyms).items()
        if wanted in (image_id, pseudonyms.patient(files.patient))
    ]
    if not found:
        found = [
            (wanted, file_in(folder, name))
            for name in opened.strays()
            if pseudonyms.image(name) == wanted
            for folder in sources
            if file_in(folder, name).is_file()
        ]
    if not found:
        raise InputError(
            f"no image or patient of the cohort's sources has the pseudonym {pseudonym}; give the "
            "configuration and the key_file that the run was made with"
        )
    return sorted(found)
