"""What a person's folder holds: image files with facts of their headers, and tables."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mammo_sae.cohorts.facts import read_facts
from mammo_sae.cohorts.image_files import LEFT_BY_SYSTEMS, composed
from mammo_sae.dicom.elements import Elements
from mammo_sae.dicom.inspection import inspect_header, is_image, judge_file
from mammo_sae.dicom.raster import raster_kind
from mammo_sae.dicom.reading import open_nameless, parse_dicom
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import TriageSettings
from mammo_sae.errors import InputError, counted
from mammo_sae.own_data.spreadsheets import CSV, EXCEL, OLD_EXCEL, Table, read_tables
from mammo_sae.progress import progress

GROUPS = ("PatientID", "StudyInstanceUID", "AccessionNumber")
"""Elements that say which images belong together. They are compared, and never written."""
CHUNK = 1 << 20


@dataclass(frozen=True)
class Found:
    """One image file.

    Attributes
    ----------
    path
        Its path below the folder, with slashes.
    kind
        DICOM, PNG, JPEG, TIFF or NPY.
    syntax
        Keyword of the transfer syntax; the kind for other files than DICOM; empty if unknown.
    rows, columns, side, view, manufacturer, model
        From the header; None if unknown.
    refused
        Why the conversion would refuse the file by its header; None if it would not.
    uid, groups
        SOPInstanceUID and the values of `GROUPS`, which identify and are never shown.
    """

    path: str
    kind: str
    syntax: str = ""
    rows: int | None = None
    columns: int | None = None
    side: str | None = None
    view: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    refused: Reason | None = None
    uid: str = field(default="", repr=False)
    groups: tuple[str, ...] = field(default=("",) * len(GROUPS), repr=False)


@dataclass(frozen=True)
class Folder:
    """A person's folder: its images and tables in order of their paths.

    `twins` has the path of each file whose content is that of an earlier file -> this file's path.
    `others` counts further files by suffix. `said` are sentences about tables that were not read,
    `passed` about folders and files that could not be looked at.
    """

    path: Path
    images: tuple[Found, ...]
    tables: tuple[Table, ...]
    twins: dict[str, str]
    others: Counter[str]
    said: tuple[str, ...]
    passed: tuple[str, ...] = ()


def scan(folder: Path, written: Sequence[str] = ()) -> Folder:
    """Look at every file of a folder. No pixels are decoded and nothing is written.

    Parameters
    ----------
    folder
        The folder.
    written
        Names of files in the folder that were written from others and are not to be read.

    Raises
    ------
    InputError
        If the folder is missing or holds no image.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is missing"
        raise InputError(f"folder {folder} {what}; give the folder of your images")
    paths, passed = _files(folder)
    images: list[Path] = []
    tables: list[Table] = []
    others: Counter[str] = Counter()
    said: list[str] = []
    for path in paths:
        inside = path.relative_to(folder)
        suffix = path.suffix.lower()
        if inside.as_posix() in written:
            continue
        if is_image(path):
            images.append(path)
        elif suffix in (*CSV, *EXCEL, *OLD_EXCEL):
            found, sentences = read_tables(path, inside.as_posix())
            tables += found
            said += sentences
        else:
            others[suffix or "no suffix"] += 1
    if not images:
        raise InputError(
            f"folder {folder} holds no DICOM, PNG, JPEG, TIFF or NPY file; give the folder of your "
            f"images{''.join(f'; {sentence}' for sentence in passed)}"
        )
    headers = read_facts(images, "read headers")
    rows = progress(zip(images, headers, strict=True), total=len(images), label="check headers")
    found_images = tuple(_found(path, folder, facts) for path, facts in rows)
    twins = _twins(folder, images)
    return Folder(folder, found_images, tuple(tables), twins, others, tuple(said), tuple(passed))


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the files below a folder in order, and sentences about what is not looked at."""
    files: list[Path] = []
    links: list[str] = []
    closed: list[str] = []
    errors: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=errors.append):
        here = Path(place)
        for name in (*folders, *names):
            path = here / name
            inside = path.relative_to(folder)
            hidden = any(part.startswith(".") or part in LEFT_BY_SYSTEMS for part in inside.parts)
            if hidden or name == "DICOMDIR" or name.startswith("~$"):
                continue
            if path.is_symlink() and not path.is_file():
                links.append(inside.as_posix())
            elif path.is_file() and os.access(path, os.R_OK):
                files.append(path)
            elif path.is_file():
                closed.append(inside.as_posix())
    closed += [Path(error.filename).relative_to(folder).as_posix() for error in errors]
    passed = []
    if links:
        are = (
            "link leads to a folder or to nothing and is",
            "links lead to folders or nothing and are",
        )
        passed.append(
            f"{counted(len(links), *are)} not followed, the first is {min(links)!r}; put the files "
            "into the folder, or give the folder that the link leads to"
        )
    if closed:
        passed.append(
            f"{counted(len(closed), 'file or folder', 'files or folders')} can't be read, the "
            f"first is {min(closed)!r}; get permission to read them"
        )
    return sorted(files), passed


def _found(path: Path, folder: Path, facts: object) -> Found:
    name = composed(path.relative_to(folder).as_posix())
    refused = judge_file(path, TriageSettings()).refused
    try:
        kind = raster_kind(path) or "DICOM"
    except Refusal:
        return Found(name, "DICOM", refused=refused)
    uid, groups, syntax = ("", ("",) * len(GROUPS), kind) if kind != "DICOM" else _identity(path)
    known = {
        key: getattr(facts, key, None)
        for key in ("rows", "columns", "side", "view", "manufacturer", "model")
    }
    return Found(name, kind, syntax, refused=refused, uid=uid, groups=groups, **known)


def _identity(path: Path) -> tuple[str, tuple[str, ...], str]:
    try:
        with open_nameless(path) as stream:
            elements = Elements(parse_dicom(stream, ("SOPInstanceUID", *GROUPS), pixels=False))
        uid, *groups = (
            str(elements.value(keyword) or "").strip() for keyword in ("SOPInstanceUID", *GROUPS)
        )
    except Exception:  # the parser raises many kinds of errors, and the file is then refused
        return "", ("",) * len(GROUPS), ""
    try:
        header = inspect_header(path)
    except Refusal:
        header = None
    return uid, tuple(groups), header.syntax if header else ""


def _twins(folder: Path, images: Sequence[Path]) -> dict[str, str]:
    """Return the files with the content of an earlier one. Only files of equal size are read."""
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path in images:
        sizes[path.stat().st_size].append(path)
    twins: dict[str, str] = {}
    for same in sizes.values():
        first: dict[str, str] = {}
        starts = Counter(_digest(path, 1) for path in same) if len(same) > 1 else Counter()
        for path in same if len(same) > 1 else ():
            if starts[_digest(path, 1)] == 1:
                continue
            name = composed(path.relative_to(folder).as_posix())
            earlier = first.setdefault(_digest(path, None), name)
            if earlier != name:
                twins[name] = earlier
    return twins


def _digest(path: Path, chunks: int | None) -> str:
    """Return a digest of a file's last chunks, or of all of it."""
    made = hashlib.blake2b()
    try:
        with path.open("rb") as stream:
            if chunks is not None:
                stream.seek(max(0, path.stat().st_size - chunks * CHUNK))
            while piece := stream.read(CHUNK):
                made.update(piece)
    except OSError:
        return str(path)
    return made.hexdigest()


def tails(name: str) -> list[str]:
    """Return the forms of all ends of a path: the whole path first, the bare name last."""
    parts = PurePosixPath(name).parts
    return [form for at in range(len(parts)) for form in forms("/".join(parts[at:]))]


def forms(path: str) -> list[str]:
    """Return a path with and without its suffix. `1.2.840.10008` is a UID and has no suffix."""
    suffix = PurePosixPath(path).suffix
    bare = path.removesuffix(suffix) if suffix and not suffix[1:].isdecimal() else path
    return list(dict.fromkeys((path, bare)))
