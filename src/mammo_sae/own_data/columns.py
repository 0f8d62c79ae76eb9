"""Which column of a person's tables has which role. What is not certain is said or refused."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mammo_sae.complaints import listed, nearest
from mammo_sae.errors import InputError
from mammo_sae.own_data.matching import Match
from mammo_sae.own_data.words import ROLES, plain

LEAST_READ = 0.8  # share of cells that a column of a role must have in the role's words


@dataclass(frozen=True)
class Column:
    """A column of a table, with one cell per image: empty, or None without a row."""

    match: Match
    name: str

    @property
    def place(self) -> str:
        """The table and the name, for messages."""
        return f"column {self.name!r} of {self.match.table.name}"

    @property
    def cells(self) -> list[str | None]:
        """The cell per image."""
        return self.match.cells(self.name)

    @property
    def filled(self) -> list[str]:
        """The cells that are not empty."""
        return [cell for cell in self.cells if cell]

    def read(self, read: Callable[[str], object] | None) -> tuple[object, ...]:
        """Return the value of each cell, None where there is none."""
        return tuple((read(c) if read else c) if c else None for c in self.cells)


class Columns:
    """The columns of all matched tables, of which each has at most one role.

    Parameters
    ----------
    matches
        The tables, with their rows per image.
    asked
        Role -> name of its column, as the person gave it.
    """

    def __init__(self, matches: Sequence[Match], asked: Mapping[str, str]) -> None:
        self.all = [Column(match, name) for match in matches for name in match.table.header]
        self.asked = dict(asked)
        self.used: dict[tuple[str, str], str] = {}

    def named(self, name: str, role: str) -> Column:
        """Return the column that a person named for a role.

        Raises
        ------
        InputError
            If there is none, or if several tables have it.
        """
        found = [column for column in self.all if column.name == name]
        if not found:
            known = list(dict.fromkeys(column.name for column in self.all))
            raise InputError(
                f"--columns {role}={name}: no table has a column {name!r}{nearest(name, known)}; "
                f"there are {listed(known, 'and')}"
            )
        if len({tuple(column.cells) for column in found}) > 1:
            tables = listed([column.match.table.name for column in found], "and")
            raise InputError(
                f"--columns {role}={name}: {tables} have this column; rename it in one of them"
            )
        return found[0]

    def pick(self, role: str, read: Callable[[str], object] | None = None) -> Column | None:
        """Return the column of a role, None if there is none.

        Parameters
        ----------
        role
            Name of the role.
        read
            Returns None for a cell that is no value of the role. Without it any text is a value.

        Raises
        ------
        InputError
            If several columns may have the role and their cells differ.
        """
        if role in self.asked:
            return self.use(self.named(self.asked[role], role), role)
        fitting = [column for column in self.free() if _fits(column, read)]
        found = [column for column in fitting if plain(column.name) in ROLES[role]]
        if not found and role in {"side", "view"}:
            found = fitting  # its cells are words of the role
        # Several tables may repeat a column in other words.
        different: dict[tuple[object, ...], Column] = {}
        for column in found:
            self.use(column, role)
            different.setdefault(column.read(read), column)
        if len(different) > 1:
            places = listed([column.place for column in different.values()], "and")
            raise InputError(
                f"{places} may both be the {role}; name one with --columns "
                f"{shlex.quote(f'{role}={found[0].name}')}"
            )
        return found[0] if found else None

    def use(self, column: Column, role: str) -> Column:
        """Mark a column as that of a role, and return it."""
        self.used[(column.match.table.name, column.name)] = role
        return column

    def free(self) -> Iterator[Column]:
        """Yield the columns without a role that do not name images."""
        for column in self.all:
            names_images = column.name == column.match.column and column.match.by != "patient"
            key = (column.match.table.name, column.name)
            if not names_images and key not in self.used:
                yield column


def _fits(column: Column, read: Callable[[str], object] | None) -> bool:
    filled = column.filled
    if not filled:
        return False
    return read is None or sum(read(c) is not None for c in filled) >= LEAST_READ * len(filled)


def shown(values: Counter[str], most: int = 6) -> str:
    """Return values with their numbers: "a (3), b (2)"."""
    found = [f"{value[:24]} ({count})" for value, count in values.most_common(most)]
    return ", ".join([*found, *(["..."] if len(values) > most else [])])
