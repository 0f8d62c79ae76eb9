"""Labels, densities, assessments and covariates from the columns of a person's tables."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mammo_sae.cohorts.columns import IMAGE_COLUMNS
from mammo_sae.cohorts.covariates import DATE
from mammo_sae.errors import InputError, counted
from mammo_sae.own_data.columns import Column, Columns, shown
from mammo_sae.own_data.words import ROLES, concept_name, is_private, label_of, plain

MOST_LEVELS = 8  # of a covariate
LEAST_PATIENTS = 2  # of each level; a level of one patient may identify this patient
NO_CONCEPTS = ("implant", "marker", "paddle", "device", "scanner")
"""Parts of names of 0/1 columns that describe the image and not a finding."""
DENSITIES = {"1": "A", "2": "B", "3": "C", "4": "D"}
BIRADS = re.compile(r"(?:birads|bi-rads|acr)?[ :_-]*([0-6])[abc]?(?:[.,]0)?", re.IGNORECASE)


@dataclass
class Labels:
    """What is copied from the columns: name -> text per image.

    Attributes
    ----------
    concepts
        Concept -> 0, 1 or empty per image.
    further
        `density`, `birads` and covariates -> text per image.
    covariates
        Names of the covariates among `further`.
    lines
        Name -> the place that it was read from.
    said
        Sentences for the person.
    """

    concepts: dict[str, list[str]] = field(default_factory=dict)
    further: dict[str, list[str]] = field(default_factory=dict)
    covariates: list[str] = field(default_factory=list)
    lines: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def read_labels(columns: Columns, patients: Sequence[str]) -> Labels:
    """Return the labels of images, from columns that the person named or that hold 0 and 1.

    Parameters
    ----------
    columns
        The columns; those with a role are left alone.
    patients
        The patient of each image.

    Raises
    ------
    InputError
        If a column or a value that the person named does not exist.
    """
    found = Labels()
    _read_density(columns, found)
    _read_birads(columns, found)
    for name, place in columns.asked.items():
        if name not in {*ROLES, "file"}:
            _read_asked(columns, name, place, found)
    unused: list[Column] = []
    private: list[Column] = []
    for column in list(columns.free()):
        cells = [cell or "" for cell in column.cells]
        if not column.filled or column.match.column == column.name:
            continue
        if is_private(column.name):
            private.append(column)
            continue
        values = Counter(column.filled)
        flags = Counter(label_of(value) for value in values.elements())
        if set(flags) == {"0", "1"}:
            is_concept = not any(part in plain(column.name) for part in NO_CONCEPTS)
            _add_flags(column, cells, found, is_concept)
            columns.use(column, "label")
        elif {"0", "1"} <= set(flags) and flags[None] < len(column.filled) / 2:
            odd = Counter({v: n for v, n in values.items() if label_of(v) is None})
            found.said.append(
                f"{column.place} holds {shown(odd)} beside 0 and 1, so it is no label here; "
                "correct these cells, or count them as unknown with "
                f"{option(column.name, column.name)}"
            )
        elif not _add_covariate(column, cells, patients, found):
            unused.append(column)
    _say_unused(unused, found)
    for why, those in (
        ("may identify a person and are never copied", private),
        ("hold neither labels nor few levels and are not used", unused),
    ):
        if those:
            names = ", ".join(dict.fromkeys(repr(column.name) for column in those))
            found.said.append(f"columns that {why}: {names}")
    return found


def _read_asked(columns: Columns, name: str, place: str, found: Labels) -> None:
    if concept_name(name) != name or name in IMAGE_COLUMNS:
        raise InputError(
            f"--columns {name}=...: {name!r} is neither a role ({', '.join(('file', *ROLES))}) nor "
            "can it be the name of a label; use lower-case letters, digits and _"
        )
    known = {column.name for column in columns.all}
    column_name, _, value = (place, "", "") if place in known else place.rpartition(":")
    column = columns.named(column_name or place, name)
    columns.use(column, "label")
    cells = [cell or "" for cell in column.cells]
    if value:
        if value not in column.filled:
            raise InputError(
                f"--columns {name}={place}: {column.place} holds no {value!r}; it holds "
                f"{shown(Counter(column.filled))}"
            )
        found.concepts[name] = ["" if not c else str(int(c == value)) for c in cells]
        found.lines[name] = f"{column.place}: 1 where it holds {value!r}, 0 where another text"
        return
    found.concepts[name] = [label_of(cell) or "" if cell else "" for cell in cells]
    found.lines[name] = column.place
    odd = sum(bool(cell) and label_of(cell) is None for cell in cells)
    if odd:
        are = "cell of it is no 0 or 1 and counts", "cells of it are no 0 or 1 and count"
        found.said.append(f"{column.place}: {counted(odd, *are)} as unknown")


def _add_flags(column: Column, cells: list[str], found: Labels, is_concept: bool) -> None:
    name = _free_name(column.name, found)
    flags = [label_of(cell) or "" for cell in cells]
    if is_concept:
        found.concepts[name] = flags
    else:
        found.further[name] = flags
        found.covariates.append(name)
    words = sorted(
        {(label_of(cell) or "", cell) for cell in cells if cell and cell not in {"0", "1"}}
    )
    read = ", ".join(f"{cell} read as {flag}" for flag, cell in words)
    note = f" ({read})" if read else ""
    found.lines[name] = f"{column.place}{note}"
    differing = column.match.differs(column.name)
    if differing:
        found.said.append(
            f"{column.place} differs between the rows of {counted(differing, 'image')}, where it "
            "is unknown; give each image one value"
        )


def _free_name(text: str, found: Labels) -> str:
    name = concept_name(text)
    taken = {*IMAGE_COLUMNS, *found.concepts, *found.further}
    while name in taken:
        name += "_label"
    return name


def _add_covariate(
    column: Column, cells: list[str], patients: Sequence[str], found: Labels
) -> bool:
    """Add a column with few levels, each of several patients. Others may identify a person."""
    levels: dict[str, set[str]] = {value: set() for value in column.filled}
    for cell, patient in zip(cells, patients, strict=True):
        if cell:
            levels[cell].add(patient)
    if any(re.fullmatch(DATE, level) for level in levels):
        return False
    fewest = min(map(len, levels.values()))
    if not 2 <= len(levels) <= MOST_LEVELS or fewest < LEAST_PATIENTS:
        return False
    name = _free_name(column.name, found)
    found.further[name] = cells
    found.covariates.append(name)
    found.lines[name] = f"{column.place}, a possible confounder"
    if not all(level.replace(".", "").replace(",", "").isdecimal() for level in levels):
        last = shown(Counter(column.filled))
        value = min(levels)
        found.said.append(
            f"{column.place} holds {last}; to make one of them a label, add "
            f"{option(value, column.name + ':' + value)}"
        )
    return True


def _say_unused(columns: Sequence[Column], found: Labels) -> None:
    for column in columns:
        values = Counter(column.filled)
        if 1 < len(values) <= MOST_LEVELS:
            value = values.most_common()[-1][0]
            found.said.append(
                f"{column.place} holds {shown(values)} and is not used; to make one of them a "
                f"label, add {option(value, column.name + ':' + value)}"
            )


def option(name: str, place: str) -> str:
    """Return the option that makes a column, or a value of it, the label `name`."""
    return f"--columns {shlex.quote(f'{concept_name(name)}={place}')}"


def _read_density(columns: Columns, found: Labels) -> None:
    column = columns.pick("density", _density)
    if column is None:
        return
    cells = [_density(cell or "") or "" for cell in column.cells]
    found.further["density"] = cells
    numbers = any(cell[:1].isdecimal() for cell in column.filled)
    found.lines["density"] = f"{column.place}{' (1 to 4 read as A to D)' if numbers else ''}"
    _say_odd(column, cells, "A to D", found)


def _density(text: str) -> str | None:
    word = re.sub(r"^(acr|typ|type|birads|bi-rads)[ _:-]*", "", text.casefold()).upper()
    word = re.sub(r"[.,]0$", "", word)
    return word if word in {"A", "B", "C", "D"} else DENSITIES.get(word)


def _read_birads(columns: Columns, found: Labels) -> None:
    column = columns.pick("birads", _birads)
    if column is None:
        return
    cells = [_birads(cell or "") or "" for cell in column.cells]
    found.further["birads"] = cells
    letters = any(cell[-1:].casefold() in {"a", "b", "c"} for cell in column.filled)
    found.lines["birads"] = f"{column.place}{' (4a, 4b and 4c read as 4)' if letters else ''}"
    _say_odd(column, cells, "0 to 6", found)


def _birads(text: str) -> str | None:
    found = BIRADS.fullmatch(text)
    return found[1] if found else None


def _say_odd(column: Column, read: Sequence[str], expected: str, found: Labels) -> None:
    odd = Counter(c for c, of in zip(column.cells, read, strict=True) if c and not of)
    if odd:
        found.said.append(
            f"{column.place} holds {shown(odd)}, which is not {expected} and counts as unknown"
        )
