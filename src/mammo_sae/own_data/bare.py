"""A folder of images without a table: what the headers and the names of the files say.

Such a folder becomes a cohort without labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from mammo_sae.cohorts.pseudonyms import Pseudonyms
from mammo_sae.errors import InputError, counted
from mammo_sae.own_data.scan import Folder, Found
from mammo_sae.own_data.words import side_of, view_of

IN_NAME = re.compile(r"(?<![A-Z])(L|R|LEFT|RIGHT)[ _.-]*(CC|MLO)(?![A-Z])", re.IGNORECASE)
NAME_IN = re.compile(r"(?<![A-Z])(CC|MLO)[ _.-]*(L|R|LEFT|RIGHT)(?![A-Z])", re.IGNORECASE)
MOST_UNKNOWN = 0.5
"""If patient, side or view of more than this share of the images is unknown, a table is needed."""
ADD_TABLE = (
    "put a .csv or .xlsx file there with a row per image: its file, patient, side and view, and a "
    "column of 0 and 1 per label"
)
IN_NAME_OR_TABLE = f"name the files like 12_L_CC.png (patient, side, view), or {ADD_TABLE}"
NO_LABELS = (
    ", so no image has a label: the run trains SAEs and writes what their latents do on each "
    f"image, and compares nothing with a concept; to have labels, {ADD_TABLE}, and call init again "
    "with --overwrite"
)


def no_labels(folder: Folder) -> str:
    """Return what a run without a table is, for the person."""
    lack = "no table could be read" if folder.said else "there is no table"
    return lack + NO_LABELS


def lack_of_table(folder: Folder) -> str:
    """Return the words for a folder in which no table was read, with the reason if it has one."""
    why = f" that can be read ({'; '.join(folder.said)})" if folder.said else ""
    return f"{folder.path} holds no table{why}"


def hint(image: Found) -> tuple[str | None, str | None]:
    """Return side and view of an image by its header, or else by its file's name.

    A header with another view than CC and MLO is not completed by the name.
    """
    name = PurePosixPath(image.path).stem
    found = {(side[0].upper(), view.upper()) for side, view in IN_NAME.findall(name)}
    found |= {(side[0].upper(), view.upper()) for view, side in NAME_IN.findall(name)}
    side, view = found.pop() if len(found) == 1 else (None, None)
    return (
        side_of(image.side) if image.side else side,
        view_of(image.view) if image.view else view,
    )


def patient_of(path: str) -> str:
    """Return the patient by a file's name: its folder, and what is before side and view."""
    file = PurePosixPath(path)
    marks = [found for mark in (IN_NAME, NAME_IN) if (found := mark.search(file.stem))]
    before = file.stem[: min((mark.start() for mark in marks), default=0)].strip(" _.-")
    folder = "" if file.parent.name == "" else file.parent.as_posix()
    return "/".join(part for part in (folder, before) if part)


def check_bare(
    folder: Folder, asked: Mapping[str, str], hints: Sequence[tuple[str | None, str | None]]
) -> None:
    """Refuse a folder without a table if headers and names of files don't say enough.

    Parameters
    ----------
    folder
        The folder.
    asked
        Role or label -> name of its column, as the person gave it.
    hints
        Side and view of each image; None if unknown.

    Raises
    ------
    InputError
        If most images have no patient, side or view, or if a column is asked for.
    """
    if asked:
        role, name = next(iter(asked.items()))
        raise InputError(f"--columns {role}={name}: {lack_of_table(folder)}; {ADD_TABLE}")
    lacking = [
        image.path
        for image, known in zip(folder.images, hints, strict=True)
        if not all(known) or not (image.groups[0] or patient_of(image.path))
    ]
    if len(lacking) > MOST_UNKNOWN * len(folder.images):
        raise InputError(
            f"{lack_of_table(folder)}, and neither headers nor names say patient, side and view of "
            f"{counted(len(lacking), 'image')}, the first is {lacking[0]!r}; "
            f"{IN_NAME_OR_TABLE}"
        )


def bare_patients(
    images: Sequence[Found], pseudonyms: Pseudonyms
) -> tuple[list[str | None], str, list[str]]:
    """Return the patient of each image: a hash of PatientID, or else by the file's name.

    A file without PatientID whose name is the PatientID of another file has this patient.

    Returns
    -------
    The patients, None where unknown; the place that they were read from; sentences for the person.
    """
    headers = [image.groups[0] for image in images]
    names = [patient_of(image.path) for image in images]
    # A name that is the PatientID of another file means the same patient.
    known = {*headers} - {""}
    headers = [
        header or (name if name in known else "")
        for header, name in zip(headers, names, strict=True)
    ]
    by_name = [name for header, name in zip(headers, names, strict=True) if not header]
    places, said = [], []
    if any(headers):
        places.append("a keyed hash of PatientID in the DICOM headers")
    if any(by_name):
        places.append("the names of the files and their folders")
        first = next(name for name in by_name if name)
        said.append(
            f"{counted(len({*by_name} - {''}), 'patient is', 'patients are')} known by the names "
            f"of the files, the first is {first!r}; if one patient has several such names, correct "
            "patient_id and split in images.csv, since a patient's images must stay in one split"
        )
    if unknown := by_name.count(""):
        said.append(
            f"the patient is unknown for {counted(unknown, 'image')}, left out; {IN_NAME_OR_TABLE}"
        )
    found = [
        pseudonyms.patient(header) if header else name or None
        for header, name in zip(headers, names, strict=True)
    ]
    return found, "; ".join(places), said
