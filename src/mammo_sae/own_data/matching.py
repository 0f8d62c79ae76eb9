"""Which rows of a person's tables belong to which image."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from mammo_sae.cohorts.image_files import composed
from mammo_sae.own_data.scan import GROUPS, Found, forms, tails
from mammo_sae.own_data.spreadsheets import Table
from mammo_sae.own_data.words import side_of, view_of

LEAST = 0.5  # a column names images if this share of its cells, or of the images, match
MARKED = re.compile(r"0*(\d+)")


@dataclass(frozen=True)
class Match:
    """How a table's rows belong to images.

    Attributes
    ----------
    table
        The table.
    column
        The column that names the image, or what its images have in common.
    by
        `file`, `uid`, `patient`, `study`, `accession` or `folder`.
    rows
        Per image, the positions of its rows.
    unmatched
        Positions of rows with a cell that names no image.
    """

    table: Table
    column: str
    by: str
    rows: tuple[tuple[int, ...], ...]
    unmatched: tuple[int, ...]

    @property
    def one_image(self) -> bool:
        """Whether a cell names one image, and not several."""
        return self.by in {"file", "uid"}

    @property
    def images(self) -> int:
        """Number of images with a row."""
        return sum(bool(rows) for rows in self.rows)

    def cells(self, column: str) -> list[str | None]:
        """Return a column's cell per image; None without a row, or if its rows differ."""
        values = self.table.column(column)
        found: list[str | None] = []
        for rows in self.rows:
            own = {values[row] for row in rows}
            found.append(own.pop() if len(own) == 1 else None)
        return found

    def differs(self, column: str) -> int:
        """Return the number of images whose rows have different cells in a column."""
        values = self.table.column(column)
        return sum(len({values[row] for row in rows}) > 1 for rows in self.rows)


class Index:
    """The names of images by which tables may refer to them."""

    def __init__(self, images: Sequence[Found], patients: Sequence[str | None] = ()) -> None:
        self.images = images
        self._tails: dict[str, set[int]] = defaultdict(set)
        self._paths: dict[str, set[int]] = defaultdict(set)
        self._keys: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        for at, image in enumerate(images):
            for known, names in (
                (self._tails, tails(image.path)),
                (self._paths, forms(image.path)),
            ):
                for name in {one for form in names for one in (form, form.casefold())}:
                    known[name].add(at)
            self._add("uid", image.uid, at)
            for by, value in zip(("patient", "study", "accession"), image.groups, strict=True):
                self._add(by, value, at)
            for part in PurePosixPath(image.path).parts[:-1]:
                self._add("folder", composed(part), at)
        for at, patient in enumerate(patients):
            self._add("patient", patient or "", at)

    def _add(self, by: str, value: str, at: int) -> None:
        if value:
            self._keys[by][value].add(at)

    def find(self, by: str, cell: str) -> set[int]:
        """Return the images that a cell names. A name of several files names none of them.

        A path names a file if one is the end of the other. `B/1.png` is not `A/1.png`. The suffix
        may differ if it leaves one file, since tables may name the files before a conversion.
        """
        if by != "file":
            return self._keys[by].get(cell, set())
        path = cell.replace("\\", "/").removeprefix("./")
        places = [(form, self._tails) for form in forms(path)]
        places += [(form, self._paths) for form in tails(path)]
        for form, known in places:
            for name in (form, form.casefold()):
                if len(found := known.get(name, set())) == 1:
                    return found
        return set()


def match_table(table: Table, index: Index, column: str | None = None) -> Match | None:
    """Return how a table's rows belong to images, by the column that names most of them.

    Parameters
    ----------
    table, index
        The table, and the names of the images.
    column
        The only column to consider; all if it is not given.

    Returns
    -------
    Match or None
        None if no column names at least half of the images or of its own cells. A column that names
        single images goes before one that names groups.
    """
    best: tuple[float, Match] | None = None
    kinds = ("file", "uid", *("patient", "study", "accession"), "folder")
    for rank, by in enumerate(kinds):
        for name in table.header if column is None else [column]:
            match = _match(table, name, by, index)
            filled = sum(cell != "" for cell in table.column(name))
            share = match.images / max(1, len(index.images))
            own = 1 - len(match.unmatched) / filled if filled else 0.0
            if match.images and max(share, own) >= LEAST:
                score = share - rank * 1e-3
                if best is None or score > best[0]:
                    best = (score, match)
        if best is not None and by in {"uid", "accession"}:
            break
    return best[1] if best else None


def _match(table: Table, column: str, by: str, index: Index) -> Match:
    rows: list[list[int]] = [[] for _ in index.images]
    unmatched = []
    for position, cell in enumerate(table.column(column)):
        found = index.find(by, cell) if cell else set()
        for at in found:
            rows[at].append(position)
        if cell and not found:
            unmatched.append(position)
    return Match(table, column, by, tuple(map(tuple, rows)), tuple(unmatched))


def narrowed(match: Match, images: Sequence[tuple[str | None, str | None]]) -> Match:
    """Return a match of groups in which each row belongs only to images of its side and view.

    Parameters
    ----------
    match
        The match. One that names single images is returned unchanged.
    images
        Side and view of each image; None if unknown.
    """
    if match.one_image:
        return match
    readers = ((0, side_of), (1, view_of))
    columns = {
        which: [name for name in match.table.header if _reads(match.table.column(name), read)]
        for which, read in readers
    }
    rows = list(match.rows)
    for which, read in readers:
        for name in columns[which][:1]:
            cells = [read(cell) for cell in match.table.column(name)]
            rows = [
                tuple(row for row in own if cells[row] in {None, known[which]})
                for own, known in zip(rows, images, strict=True)
            ]
    return Match(match.table, match.column, match.by, tuple(rows), match.unmatched)


def _reads(cells: Iterable[str], read: object) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(read(cell) is not None for cell in filled)  # type: ignore[operator]


def lost_zeros(match: Match, index: Index) -> tuple[str, str] | None:
    """Return a cell that names no image, and the file that it would name with leading zeros."""
    names = {
        MARKED.sub(lambda found: found[1], tail): image.path
        for image in index.images
        for tail in tails(image.path)[-2:]
    }
    for row in match.unmatched:
        cell = match.table.column(match.column)[row]
        if cell in names:
            return cell, names[cell]
    return None


def group_name(by: str) -> str:
    """Return the words for what a cell of a match names."""
    words = dict(zip(("patient", "study", "accession"), GROUPS, strict=True))
    words |= {"file": "the file", "uid": "SOPInstanceUID", "folder": "the folder"}
    return words[by] if by != "patient" else "the patient"
