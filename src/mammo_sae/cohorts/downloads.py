"""Image files of a download, whose folders may have been named in several ways.

The Cancer Imaging Archive's tools have named folders by patient, by study and by series. Where no
folder of a file's path says whose it is, its header does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from mammo_sae.cohorts.image_files import composed, is_image_name


class Download:
    """The image files below a folder, by the names that folders or headers give them.

    Parameters
    ----------
    folder
        Where to look.
    names
        Patients, or UIDs of studies or series, as the source's tables have them.
    suffixes
        Only files with these; without it all images.
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
        # What only locates files needs no pydicom, unless it must.
        from mammo_sae.cohorts.facts import read_origins

        for path, origin in zip(nameless, read_origins(nameless), strict=True):
            for name in {composed(text) for text in origin} & wanted:
                self._named.setdefault(name, []).append(path)

    def find(self, *names: str) -> list[Path]:
        """Return the files that the first of `names` with any is given, sorted."""
        return next((sorted(self._named[name]) for name in names if name in self._named), [])
