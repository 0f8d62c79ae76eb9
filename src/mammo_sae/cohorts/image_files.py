"""Image files, found whatever their suffix: datasets circulate as DICOM, PNG, JPEG, TIFF and NPY.

The suffix says only that a file may be an image; what it is, its content decides.
"""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

SUFFIXES = (".dicom", ".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
"""In this order: where an image lies there as DICOM and as something else, DICOM is read."""


LONGEST_NAME, LONGEST_PATH = 200, 2000
"""Bytes; file systems have some more, which other parts of a path may need."""
LEFT_BY_SYSTEMS = frozenset({"@eaDir", "__MACOSX"})


def is_image_name(path: Path) -> bool:
    """Say whether a file is an image by its name.

    Systems that copy archives leave files of the same suffixes: macOS a `._1-1.dcm` beside
    `1-1.dcm`, Synology thumbnails in `@eaDir`. These are none.
    """
    return (
        path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and LEFT_BY_SYSTEMS.isdisjoint(path.parts)
    )


class Listings:
    """The image files of folders by name without suffix; every folder is listed once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Path]] = {}

    def find(self, folder: Path, name: str) -> Path | None:
        """Return the image `name`, a file name without its suffix, in `folder`.

        A name that is composed (NFC) finds the file whose name, composed, is the same.
        """
        if folder not in self._folders:
            self._folders[folder] = _listed(folder)
        return self._folders[folder].get(name)


def file_in(folder: Path, name: str) -> Path:
    """Return the file below `folder` that a table calls `name`; it need not exist.

    macOS writes the names of files decomposed, tables come from elsewhere: without a file of this
    name, one whose path is the same when both are composed (NFC) is meant.
    """
    found = folder / name
    if name.isascii() or found.exists():
        return found
    place = folder
    for part in Path(name).parts:
        try:
            names = sorted(path.name for path in place.iterdir())
        except OSError:
            return found
        same = [other for other in names if composed(other) == part]
        if not same:
            return found
        place /= same[0]
    return place


def fits(name: str) -> bool:
    """Say whether a file system can have a file of this path, with more words in its name."""
    return len(name.encode("utf-8", "surrogatepass")) <= LONGEST_PATH and all(
        len(part.encode("utf-8", "surrogatepass")) <= LONGEST_NAME for part in name.split("/")
    )


def composed(name: str) -> str:
    """Return a name in the form (NFC) in which tables are read."""
    return name if name.isascii() else normalize("NFC", name)


def _listed(folder: Path) -> dict[str, Path]:
    try:
        paths = [path for path in folder.iterdir() if is_image_name(path)]
    except OSError:
        return {}
    # The first suffix last, so that it remains; of one name in two forms the composed.
    paths.sort(
        key=lambda path: (
            -SUFFIXES.index(path.suffix.lower()),
            path.stem == composed(path.stem),
            path.name,
        )
    )
    return {composed(path.stem): path for path in paths}
