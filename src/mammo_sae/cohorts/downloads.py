"""Image files of a download, whose folders may have been named in several ways.

The tools of The Cancer Imaging Archive have named folders by patient, by study and by series. If no
folder of a file's path identifies the patient, the file's header does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from mammo_sae.cohorts.image_files import composed, is_image_name


class Download:
    """The image files below a folder, found by names in their paths or headers.

    Parameters
    ----------
    folder
        The folder to search.
    names
        Names of patients, or UIDs of studies or series, as in the source's tables.
    suffixes
        Suffixes of the files to find; all images if it is not given.
    """

    def __init__(
        self, folder: Path, names: Iterable[str], suffixes: Collection[str] | None = None
    ) -> None:
        wanted = {name for name in names if name}
        self._named: dict[str, list[Path]] = {}
        nameless = []
        for path in sorted(filter(is_image_name, folder.rglob("*"))):
            if suffixes is not None and path.suffix.lower() not in suffixes:
                continue
            parts = {composed(part) for part in path.relative_to(folder).parts[:-1]}
            for name in parts & wanted:
                self._named.setdefault(name, []).append(path)
            if parts.isdisjoint(wanted):
                nameless.append(path)
        if not nameless:
            return
        # Imported here because pydicom is needed only if headers must be read.
        from mammo_sae.cohorts.facts import read_origins

        for path, origin in zip(nameless, read_origins(nameless), strict=True):
            for name in {composed(text) for text in origin} & wanted:
                self._named.setdefault(name, []).append(path)

    def find(self, *names: str) -> list[Path]:
        """Return the files of the first of `names` that has files, sorted."""
        return next((sorted(self._named[name]) for name in names if name in self._named), [])
