"""Boxes of findings, in any common form, as xmin, ymin, xmax, ymax in pixels of the image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from mammo_sae.errors import counted
from mammo_sae.own_data.columns import Columns
from mammo_sae.own_data.matching import Match
from mammo_sae.own_data.scan import Found
from mammo_sae.own_data.words import CORNERS, ROLES, concept_name, plain

NOTHING = {"", "nofinding", "normal", "none", "no", "0", "keinbefund", "obefund"}
"""Names of a finding that mean that there is none, after `plain`."""
NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?")
SHARE = 1.0  # coordinates up to this are shares of the image


@dataclass
class Boxes:
    """The boxes of all images.

    Attributes
    ----------
    rows
        (position of the image, name of the finding, xmin, ymin, xmax, ymax) as text.
    named
        Finding -> positions of its images, also of rows without a box.
    asked
        Positions of the images with a row in the table, so that their findings are known.
    lines, said
        The place that boxes were read from, and sentences for the person.
    """

    rows: list[tuple[int, str, str, str, str, str]] = field(default_factory=list)
    named: dict[str, set[int]] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)
    lines: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def box_columns(header: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    """Return the form of a table's boxes and its four columns; None if it has no boxes."""
    by_word = {plain(name): name for name in header}
    for form, choices in CORNERS.items():
        for words in choices:
            if all(word in by_word for word in words):
                return form, tuple(by_word[word] for word in words)
    return None


def read_boxes(matches: Sequence[Match], columns: Columns, images: Sequence[Found]) -> Boxes:
    """Return the boxes of the tables that have them, and name the finding of each.

    Boxes are given by corners, by the top left corner and size, or by centre and size. Coordinates
    that are all from 0 to 1 are shares of the image.
    """
    found = Boxes()
    for match in matches:
        of = box_columns(match.table.header)
        if of is None or not match.one_image:
            continue
        form, names = of
        for name in names:
            columns.used[(match.table.name, name)] = "box"
        finding = _finding_column(match, columns, found)
        if finding is not None:
            _read_table(match, form, names, finding, images, found)
    return found


def _finding_column(match: Match, columns: Columns, found: Boxes) -> str | None:
    """Return the column with the names of findings, which a table of boxes needs."""
    name = columns.asked.get("finding")
    if name is None or name not in match.table.header:
        own = [c for c in columns.free() if c.match is match]
        picked = columns.pick("finding") if any(_is_finding(c.name) for c in own) else None
        name = picked.name if picked is not None and picked.match is match else None
    if name is None:
        found.said.append(
            f"{match.table.name} has boxes but no column that names their finding, so they are not "
            "used; name it with --columns finding=COLUMN"
        )
        return None
    columns.used[(match.table.name, name)] = "finding"
    return name


def _is_finding(name: str) -> bool:
    return plain(name) in ROLES["finding"]


def _read_table(
    match: Match,
    form: str,
    names: Sequence[str],
    finding: str,
    images: Sequence[Found],
    found: Boxes,
) -> None:
    table = match.table
    texts = [table.column(name) for name in names]
    corners = [[_number(cell) for cell in cells] for cells in texts]
    words = table.column(finding)
    known = [n for numbers in corners for n in numbers if n is not None]
    shares = bool(known) and max(known) <= SHARE
    odd: list[int] = []
    outside: list[int] = []
    for at, rows in enumerate(match.rows):
        found.asked |= {at} if rows else set()
        for row in rows:
            findings = _findings(words[row])
            for name in findings:
                found.named.setdefault(name, set()).add(at)
            four = [numbers[row] for numbers in corners]
            if not findings or not any(cells[row] for cells in texts):
                continue  # no finding, or one without a box
            box = _box(form, four, shares, images[at])
            if box is None:
                odd.append(table.rows[row][0])
                continue
            if _is_outside(box, images[at]):
                outside.append(table.rows[row][0])
            a, b, c, d = (f"{number:.10g}" for number in box)
            found.rows += [(at, name, a, b, c, d) for name in findings]
    meaning = {
        "corners": "corners",
        "size": "left, top, width, height",
        "centre": "centre, width, height",
    }[form]
    unit = "shares of the image" if shares else "pixels"
    found.lines["box"] = f"columns {', '.join(names)} of {table.name}: {meaning} in {unit}"
    found.lines["finding"] = f"column {finding!r} of {table.name}"
    several = sum(len(_findings(word)) > 1 for word in words)
    if several:
        are = "cell names", "cells name"
        found.said.append(
            f"column {finding!r} of {table.name}: {counted(several, *are)} several findings, "
            "separated by commas, semicolons or bars; the box is one of each"
        )
    _say(table.name, names, form, odd, outside, found)


def _say(
    table: str,
    names: Sequence[str],
    form: str,
    odd: Sequence[int],
    outside: Sequence[int],
    found: Boxes,
) -> None:
    if form == "size":
        found.said.append(
            f"{table}: {names[0]} and {names[1]} are read as the left and top edge of a box; if "
            "they are its centre, rename them xcenter and ycenter"
        )
    if odd:
        are = "box is", "boxes are"
        found.said.append(
            f"{table}: {counted(len(odd), *are)} left out, the first in line {odd[0]}: its cells "
            "are no four numbers of a box, or the size of its image is unknown"
        )
    if outside:
        are = "box lies", "boxes lie"
        found.said.append(
            f"{table}: {counted(len(outside), *are)} partly or wholly outside of the image, the "
            f"first in line {outside[0]}; check that the coordinates are pixels of these files"
        )


def _findings(cell: str) -> list[str]:
    """Return the names of the findings in a cell, such as `Mass; Asymmetry` or `['Mass']`."""
    words = [word.strip(" '\"") for word in re.split(r"[;|,]", cell.strip("[]"))]
    return list(dict.fromkeys(concept_name(word) for word in words if plain(word) not in NOTHING))


def _number(cell: str) -> float | None:
    return float(cell.replace(",", ".")) if NUMBER.fullmatch(cell) else None


def _box(
    form: str, four: Sequence[float | None], shares: bool, image: Found
) -> tuple[float, float, float, float] | None:
    if any(number is None for number in four):
        return None
    a, b, c, d = (float(number) for number in four if number is not None)
    if form == "size":
        c, d = a + c, b + d
    elif form == "centre":
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    if shares:
        if image.rows is None or image.columns is None:
            return None
        a, b, c, d = a * image.columns, b * image.rows, c * image.columns, d * image.rows
    return (a, b, c, d) if a < c and b < d else None


def _is_outside(box: tuple[float, float, float, float], image: Found) -> bool:
    if image.rows is None or image.columns is None:
        return False
    return box[0] < 0 or box[1] < 0 or box[2] > image.columns or box[3] > image.rows
