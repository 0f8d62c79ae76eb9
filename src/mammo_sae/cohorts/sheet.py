"""Reading of a CSV file of annotations, with errors that name file, row and column."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from mammo_sae.cohorts.covariates import column_notices
from mammo_sae.cohorts.image_files import fits
from mammo_sae.cohorts.rows import table_rows
from mammo_sae.errors import InputError

T = TypeVar("T")
FEW_ODD = 0.05  # largest share of cells in a column of numbers that are not numbers
LEAST_NUMBERS = 3  # one such cell is always allowed if more cells than this are not empty
LONGEST = 24  # characters of a cell that a message shows
MALFORMED = (
    ArithmeticError,
    LookupError,
    SyntaxError,
    TypeError,
    ValueError,
    RecursionError,
    MemoryError,
)
EMPTY = {
    *("", "nan", "NaN", "-nan", "-NaN", "None", "NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL")
}
"""Cells without a value, as common programs write them."""
# A whole number, with leading or trailing zeros. Zeros are not given back, else an id of many zeros
# and a letter would be tried once for each zero.
WRITTEN = re.compile(r"(?=\d)0*+(\d*+)(?:[.,]0*+)?")


def number(text: str) -> float:
    """Return a cell's number, which must be finite."""
    value = float(text)
    if not isfinite(value) or "_" in text:
        raise ValueError
    return value


FLAGS = {"0": 0, "0.0": 0, "0,0": 0, "false": 0, "1": 1, "1.0": 1, "1,0": 1, "true": 1}


def flag(text: str) -> int:
    """Return the 0 or 1 in a cell, in any of the forms that common programs write."""
    return FLAGS[text.lower()]


def whole(text: str) -> int:
    """Return a whole number. In a column with empty cells, programs may write 4 as 4.0."""
    value = number(text)
    if value != int(value):
        raise ValueError
    return int(value)


@dataclass(frozen=True)
class LeftOut:
    """A row that was left out, as a whole or in part: its table, line and column, and the reason.

    The name of the column goes before the text of the reason.
    """

    table: str
    line: int
    column: str
    why: str

    def __str__(self) -> str:
        where = f", column {self.column!r}" if self.column else ""
        return f"{self.table}: line {self.line}{where} {self.why}"


class Sheet:
    """One CSV file with every cell as text. Cells are parsed by column.

    The separator is the comma, semicolon or tab, whichever occurs most in the header row. The text
    is UTF-8, UTF-16 or, as older versions of Excel save it, Windows-1252.

    A malformed row is left out and added to `left_out`. Other rows are not affected. Columns keep
    their length, and `good` marks the rows that are used.

    Parameters
    ----------
    folder, name
        The source, and the table's path in it. Messages show only the name.
    separator
        The separator to use if no other one is more frequent in the header row.
    columns
        Only these columns are read, because some tables have hundreds.
    needed
        Columns that the table must have.

    Raises
    ------
    InputError
        If the file is missing or is not a table, or if it lacks columns. The error names all
        columns that are missing.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        separator: str = ",",
        columns: Collection[str] | None = None,
        needed: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.left_out: dict[tuple[int, str], LeftOut] = {}
        self.remarks: list[LeftOut] = []
        self.notices: dict[str, None] = {}  # in the order in which they were found, each once
        self._bad: set[int] = set()
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError:
            raise InputError(f"{name} is missing; the cohort needs it") from None
        except OSError as error:
            raise InputError(
                f"{name} can't be read ({error.strerror}); the cohort needs it as a CSV file"
            ) from None
        rows = table_rows(content, separator)
        if rows.header is None:
            raise InputError(f"{name} can't be read as CSV: {rows.refused}")
        self._header = rows.header
        self.columns = columns
        self.need(*needed)
        kept = {n: at for at, n in enumerate(rows.header) if columns is None or n in columns}
        self.frame = pd.DataFrame(
            {n: [cells[at] for _, cells in rows.good] for n, at in kept.items()}, dtype=object
        )
        self._lines = [line for line, _ in rows.good]
        self.left_out.update({(n, ""): LeftOut(name, n, "", why) for n, why in rows.bad})
        self._words = rows.words
        self.rows = len(rows.good) + len(rows.bad)

    def holds(self, columns: Collection[str] | None) -> bool:
        """Return whether all of `columns` (None: all columns) that the table has were read."""
        return self.columns is None or (columns is not None and set(columns) <= set(self.columns))

    def fresh(self, columns: Collection[str] | None, needed: Sequence[str]) -> Sheet:
        """Return a copy of the table as it was read, with only `columns` (None: all columns).

        Raises
        ------
        InputError
            If the table lacks a column of `needed`.
        """
        self.need(*needed)
        part = copy(self)
        part.left_out, part.remarks = dict(self.left_out), list(self.remarks)
        part.notices, part._bad = dict(self.notices), set(self._bad)
        if columns is not None:
            part.columns = columns
            part.frame = self.frame[[name for name in self.frame if name in columns]]
        return part

    def need(self, *columns: str) -> None:
        """Refuse a table that lacks columns.

        Raises
        ------
        InputError
            If columns are missing. The error names all of them, and the columns of the table.
        """
        missing = [name for name in columns if name not in self._header]
        if missing:
            are = "is missing" if len(missing) == 1 else "are missing"
            named = ", ".join(map(repr, missing))
            raise InputError(
                f"{self.name}: column{'s' if len(missing) > 1 else ''} {named} {are}; it has "
                f"{', '.join(self._header)}"
            )

    @property
    def good(self) -> np.ndarray:
        """Bool [rows]: whether each row is used. A row is not used after `leave_out`."""
        return np.array([line not in self._bad for line in self._lines], dtype=bool)

    def __len__(self) -> int:
        return len(self.frame)

    def __contains__(self, column: str) -> bool:
        return column in self.frame.columns

    def only(self, column: str, keep: Callable[[str], bool] | None) -> Sheet:
        """Return the rows for which `keep` of the cell in `column` is true, all if `keep` is None.

        Errors of the returned sheet still name line numbers of the file.
        """
        if keep is None:
            return self
        texts = self.text(column)
        wanted = {text for text in set(texts) if keep(text)}
        rows = [row for row, text in enumerate(texts) if text in wanted]
        part = copy(self)
        part.frame = self.frame.iloc[rows].reset_index(drop=True)
        part._lines = [self._lines[row] for row in rows]
        return part

    def text(self, column: str) -> list[str]:
        """Return a column as text, without surrounding blanks."""
        self.need(column)
        return list(self.frame[column])

    def ids(self, column: str, *, files: bool = False) -> list[str]:
        """Return a column of ids as text. A row without an id is left out.

        With `files` the ids become part of a path, so a row is also left out if its id would lead
        to another folder. If two ids differ only in leading zeros or in upper and lower case, they
        count as two ids, and a notice reports them.
        """
        values = self.text(column)
        alike: dict[str, tuple[str, int]] = {}
        for row, value in enumerate(values):
            if value in EMPTY:
                self.leave_out(row, column, "is empty")
                continue
            if files and (set(value) & set("/\\") or value in {".", ".."}):
                self.leave_out(row, column, "must be an id, not a path")
            elif files and not fits(value):
                self.leave_out(row, column, "is longer than a file's name can be")
            digits = WRITTEN.fullmatch(value)
            key = digits[1] if digits else value.casefold()
            other, line = alike.setdefault(key, (value, self._lines[row]))
            if other != value:
                self.notices.setdefault(
                    f"column {column!r}: the ids of lines {line} and {self._lines[row]} "
                    "differ only in zeros or in upper and lower case, and count as two ids",
                    None,
                )
                alike[key] = (value, self._lines[row])
        return values

    def distinct(self, ids: Sequence[str], column: str) -> None:
        """Leave out rows that share an id.

        Of rows that are equal, the first is kept. Rows that differ are all left out.
        """
        first: dict[str, int] = {}
        for row, name in enumerate(ids):
            if name in EMPTY:
                continue
            before = first.setdefault(name, row)
            if before == row:
                continue
            line = self._lines[before]
            if list(self.frame.iloc[row]) == list(self.frame.iloc[before]):
                self.leave_out(row, column, f"repeats line {line}")
            else:
                why = "occurs a second time, with other cells"
                self.leave_out(row, column, f"{why}, after line {line}")
                self.leave_out(before, column, f"{why}, in line {self._lines[row]}")

    def parsed(
        self, column: str, parse: Callable[[str], T], expected: str, *, private: bool = False
    ) -> list[T | None]:
        """Return `parse` of each cell, None if the cell is empty or malformed.

        If `parse` raises an error, the cell is malformed, and a message names its row. The message
        shows the cell, unless the column is `private`. `expected` describes valid cells.
        """
        return self._parsed(column, parse, expected, self.note, private=private)

    def required(self, column: str, parse: Callable[[str], T], expected: str) -> list[T | None]:
        """Return `parse` of each cell. Rows with an empty or malformed cell are left out."""
        found = self._parsed(column, parse, expected, self.leave_out)
        for row, value in enumerate(self.text(column)):
            if value in EMPTY:
                self.leave_out(row, column, f"is empty; expected {expected}")
        return found

    def _parsed(
        self,
        column: str,
        parse: Callable[[str], T],
        expected: str,
        say: Callable[[int, str, str], None],
        *,
        private: bool = False,
    ) -> list[T | None]:
        out: list[T | None] = []
        for row, value in enumerate(self.text(column)):
            found = None
            try:
                found = None if value in EMPTY else parse(value)
            except MALFORMED:
                shown = value if len(value) <= LONGEST else value[:LONGEST] + "..."
                said = "is malformed" if private else f"is {shown!r}"
                say(row, column, f"{said}; expected {expected}")
            out.append(found)
        return out

    def mentioned(self, ids: Iterable[str]) -> set[str]:
        """Return those of `ids` that occur in rows whose cells can't be separated."""
        return self._words & set(ids)

    def in_doubt(self, ids: Collection[str], column: str) -> set[str]:
        """Return those of `ids` to which a row that was left out may belong.

        These are up to three groups of ids:

        - the ids of the left out rows in `column`;
        - ids that occur in rows whose cells can't be separated;
        - ids without any row, if there are at least as many left out rows without a known id.
          Otherwise the table has rows for only some ids.
        """
        known, own = set(ids), self.text(column)
        found = {text for text, good in zip(own, self.good, strict=True) if not good} & known
        found |= self.mentioned(known)
        unknown = sum(not one.column for one in self.left_out.values())
        unknown += sum(text not in known for text in own)
        without = known - set(own) - found
        return found | (without if len(without) <= unknown else set())

    def cells(self, columns: Sequence[str]) -> list[str]:
        """Return each row's cells of `columns` as one text. A missing column counts as empty."""
        texts = [self.text(name) if name in self else [""] * len(self) for name in columns]
        return ["\t".join(row) for row in zip(*texts, strict=True)]

    def typed(self, column: str) -> pd.Series:
        """Return a column as Int64 or Float64 if its cells are numbers, else as string.

        If only a few cells are not numbers (at most one, or the share `FEW_ODD`), they become
        unknown and their rows are named. Otherwise each number of the column would become a level.

        Raises
        ------
        InputError
            If a comma may separate decimals or thousands.
        """
        cells = pd.Series(self.parsed(column, str, "text"), dtype=object)
        numbers = pd.to_numeric(cells, errors="coerce")
        commas = cells[numbers.isna() & cells.notna()]
        if len(commas) and commas.str.fullmatch(r"[-+]?\d+,\d+").all():
            if cells.str.contains(".", regex=False).fillna(False).any() or (
                commas.str.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}").all()
            ):
                raise InputError(
                    f"{self.name}: line {self._lines[int(commas.index[0])]}, column {column!r} "
                    "holds a comma that may separate decimals or thousands; write decimals with "
                    "a point and thousands without a mark"
                )
            numbers = pd.to_numeric(cells.str.replace(",", "."), errors="coerce")
        odd = numbers.isna() & cells.notna()
        # With more such cells, the column has codes or names, and some of them are digits.
        if odd.sum() > max(FEW_ODD * cells.notna().sum(), cells.notna().sum() > LEAST_NUMBERS):
            found = cells.astype("string")
        else:
            for row in cells.index[odd]:
                self.note(int(row), column, f"is {cells[row][:LONGEST]!r} in a column of numbers")
            whole = (numbers.dropna() % 1 == 0).all()
            found = numbers.astype("Int64" if whole else "Float64")
        self.notices |= {f"column {column!r} {notice}": None for notice in column_notices(found)}
        return found

    def chosen(self, column: str, choices: Mapping[str, T]) -> list[T | None]:
        """Return the value of `choices` for each cell. Rows with other cells are left out."""
        return self.required(column, choices.__getitem__, " or ".join(choices))

    def good_row(self, row: int) -> bool:
        """Return whether a row is used. A row is not used after `leave_out`."""
        return self._lines[row] not in self._bad

    def leave_out(self, row: int, column: str, why: str) -> None:
        """Leave out a row, counted from 0, because of one of its cells. Keep the first reason."""
        line = self._lines[row]
        if line not in self._bad:
            self._bad.add(line)
            self.note(row, column, why)

    def note(self, row: int, column: str, why: str) -> None:
        """Record that a part of a row is left out. The rest of the row is used."""
        found = LeftOut(self.name, self._lines[row], column, why)
        self.left_out.setdefault((found.line, column), found)

    def remark(self, row: int, column: str, why: str) -> None:
        """Record that a part of a row is left out, although the table has no error."""
        self.remarks.append(LeftOut(self.name, self._lines[row], column, why))

    def named(self) -> list[LeftOut]:
        """Return all records of rows that were left out, as a whole or in part, in table order."""
        found = [*self.left_out.values(), *self.remarks]
        return sorted(found, key=lambda one: (one.line, one.column))
