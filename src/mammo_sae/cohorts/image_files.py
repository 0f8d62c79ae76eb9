"""Find image files with any suffix: datasets are distributed as DICOM, PNG, JPEG, TIFF and NPY.

The suffix only shows that a file may be an image. The content of the file decides its type.
"""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

SUFFIXES = (".dicom", ".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
"""The order of preference: if an image exists as DICOM and in another format, DICOM is read."""


LONGEST_NAME, LONGEST_PATH = 200, 2000
"""Limits in bytes. File systems allow a little more, but other parts of a path need room too."""
LEFT_BY_SYSTEMS = frozenset({"@eaDir", "__MACOSX"})


def is_image_name(path: Path) -> bool:
    """Return whether the name of a file is that of an image.

    Systems that copy archives leave files with the same suffixes: macOS leaves `._1-1.dcm` next to
    `1-1.dcm`, and Synology leaves thumbnails in `@eaDir`. These are not images.
    """
    return _is_name(path) and LEFT_BY_SYSTEMS.isdisjoint(path.parts)


def _is_name(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


class Listings:
    """The image files of folders, by name without suffix. Every folder is listed only once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Path]] = {}

    def find(self, folder: Path, name: str) -> Path | None:
        """Return the image file in `folder` whose name without the suffix is `name`.

        The name must be in composed Unicode (NFC). A file whose name is decomposed is found too.
        """
        if folder not in self._folders:
            self._folders[folder] = _listed(folder)
        return self._folders[folder].get(name)


def file_in(folder: Path, name: str) -> Path:
    """Return the file below `folder` that a table calls `name`; it need not exist.

    macOS writes names of files in decomposed Unicode, but tables come from other systems. If no
    file has this name, a file is taken whose path is the same after both are composed (NFC).
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
    """Return whether a file system can have a file of this path, with room for a longer name."""
    return len(name.encode("utf-8", "surrogatepass")) <= LONGEST_PATH and all(
        len(part.encode("utf-8", "surrogatepass")) <= LONGEST_NAME for part in name.split("/")
    )


def composed(name: str) -> str:
    """Return a name in composed form (NFC), as in tables after reading."""
    return name if name.isascii() else normalize("NFC", name)


def _listed(folder: Path) -> dict[str, Path]:
    if not LEFT_BY_SYSTEMS.isdisjoint(folder.parts):
        return {}
    try:
        paths = [path for path in folder.iterdir() if _is_name(path)]
    except OSError:
        return {}
    # The preferred suffix comes last, so that it remains. If a name exists in both forms, the
    # composed one remains.
    paths.sort(
        key=lambda path: (
            -SUFFIXES.index(path.suffix.lower()),
            path.stem == composed(path.stem),
            path.name,
        )
    )
    return {composed(path.stem): path for path in paths}
