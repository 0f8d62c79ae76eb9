"""A CSV file of annotations, read with errors that name file, row and column."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import NoReturn, TypeVar

import pandas as pd

from mammo_sae.errors import InputError

T = TypeVar("T")
SHOWN = 10  # further lines that an error names
EMPTY = {"", "nan", "NaN", "None", "NA"}


def number(text: str) -> float:
    """Return a cell's number, which must be finite."""
    value = float(text)
    if not isfinite(value):
        raise ValueError
    return value


FLAGS = {"0": 0, "0.0": 0, "0,0": 0, "false": 0, "1": 1, "1.0": 1, "1,0": 1, "true": 1}


def flag(text: str) -> int:
    """Return 0 or 1, as a cell says in any of the ways in which programs write it."""
    return FLAGS[text.lower()]


def whole(text: str) -> int:
    """Return a whole number; a column with a gap has them as 4.0."""
    value = number(text)
    if value != int(value):
        raise ValueError
    return int(value)


class Sheet:
    """One CSV file, every cell as text; cells are parsed by column.

    Separators are commas, semicolons or tabs, whichever the header row has most of; the text is
    UTF-8, UTF-16 or, as older Excel saves it, Windows-1252.

    With `columns`, only these are read: some tables have hundreds.

    Raises
    ------
    InputError
        If the file is missing or is not a table of equally long rows, naming it.
    """

    def __init__(
        self, path: Path, *, separator: str = ",", columns: Sequence[str] | None = None
    ) -> None:
        self.path = path
        try:
            text = _decoded(path.read_bytes())
            header = text.lstrip("\r\n").partition("\n")[0]
            counts = {mark: header.count(mark) for mark in (separator, ",", ";", "\t")}
            self.frame = pd.read_csv(
                StringIO(text),
                sep=max(counts, key=counts.__getitem__),
                usecols=None if columns is None else lambda name: name in columns,
                dtype=str,
                keep_default_na=False,
                na_filter=False,
            )
            _check_form(text, header, self.frame, max(counts, key=counts.__getitem__))
        except FileNotFoundError:
            raise InputError(f"{path} is missing; the cohort needs it") from None
        except pd.errors.EmptyDataError:
            raise InputError(f"{path} is empty; a header row is needed") from None
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(f"{path} can't be read as CSV: {str(error).strip()}") from None
        self._lines = list(range(2, len(self.frame) + 2))

    def __len__(self) -> int:
        return len(self.frame)

    def __contains__(self, column: str) -> bool:
        return column in self.frame.columns

    def only(self, column: str, keep: Callable[[str], bool] | None) -> Sheet:
        """Return the rows whose cell in `column` is kept, all if `keep` is None.

        Errors name the lines of the file as before.
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
        """Return a column as it is written, without surrounding blanks."""
        if column not in self:
            raise InputError(
                f"{self.path}: column {column!r} is missing; it has "
                f"{', '.join(map(str, self.frame.columns))}"
            )
        # A row that ends early leaves its last cells missing.
        return ["" if value is None else str(value).strip() for value in self.frame[column]]

    def ids(self, column: str) -> list[str]:
        """Return a column that must not be empty anywhere."""
        values = self.text(column)
        for row, value in enumerate(values):
            if value in EMPTY:
                self.refuse(row, column, "is empty")
        return values

    def parsed(self, column: str, parse: Callable[[str], T], expected: str) -> list[T | None]:
        """Return `parse` of each cell, None where it is empty.

        Raises
        ------
        InputError
            Naming file, row and column, if `parse` raises an error: the cell is not `expected`.
        """
        out: list[T | None] = []
        wrong: list[tuple[int, str]] = []
        for row, value in enumerate(self.text(column)):
            try:
                out.append(None if value in EMPTY else parse(value))
            except (ArithmeticError, LookupError, SyntaxError, TypeError, ValueError):
                wrong.append((row, value))
        if wrong:
            (first, value), *others = wrong
            lines = ", ".join(str(self._lines[row]) for row, _ in others[:SHOWN])
            more = f"; so are lines {lines}" if others else ""
            more += f" and {len(others) - SHOWN} others" if len(others) > SHOWN else ""
            self.refuse(first, column, f"is {value!r}; expected {expected}{more}")
        return out

    def required(self, column: str, parse: Callable[[str], T], expected: str) -> list[T]:
        """Return `parse` of each cell, none of which may be empty; raises as `parsed` does."""
        out = []
        for row, value in enumerate(self.parsed(column, parse, expected)):
            if value is None:
                self.refuse(row, column, f"is empty; expected {expected}")
            out.append(value)
        return out

    def cells(self, columns: Sequence[str]) -> list[str]:
        """Return each row's cells of `columns` as one text; a missing column counts as empty."""
        texts = [self.text(name) if name in self else [""] * len(self) for name in columns]
        return ["\t".join(row) for row in zip(*texts, strict=True)]

    def typed(self, column: str) -> pd.Series:
        """Return a column as Int64 or Float64 if all its cells are numbers, else as string."""
        cells = pd.Series(self.parsed(column, str, "text"), dtype=object)
        numbers = pd.to_numeric(cells, errors="coerce")
        commas = cells[numbers.isna() & cells.notna()]
        if len(commas) and commas.str.fullmatch(r"[-+]?\d+,\d+").all():
            if cells.str.contains(".", regex=False).fillna(False).any() or (
                commas.str.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}").all()
            ):
                self.refuse(
                    int(commas.index[0]),
                    column,
                    "holds a comma that may separate decimals or thousands; write decimals with "
                    "a point and thousands without a mark",
                )
            numbers = pd.to_numeric(cells.str.replace(",", "."), errors="coerce")
        if (numbers.isna() & cells.notna()).any():
            return cells.astype("string")
        whole = (numbers.dropna() % 1 == 0).all()
        return numbers.astype("Int64" if whole else "Float64")

    def chosen(self, column: str, choices: Mapping[str, T]) -> list[T]:
        """Return what `choices` gives for each cell; raises as `parsed` does."""
        return self.required(column, choices.__getitem__, " or ".join(choices))

    def refuse(self, row: int, column: str, what: str) -> NoReturn:
        """Raise an InputError about one cell of the sheet's row `row`, from 0."""
        raise InputError(f"{self.path}: line {self._lines[row]}, column {column!r} {what}")


def _decoded(content: bytes) -> str:
    """Return a table's text, whatever program saved it."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252")
    if "\0" in text:
        raise ValueError("it holds NUL bytes; save it as CSV again")
    return text


def _check_form(text: str, header: str, frame: pd.DataFrame, separator: str) -> None:
    """Refuse what pandas takes without a word: shifted columns, and two of one name."""
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError("its rows have more cells than its header row names")
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ValueError(f"column {twice[0]!r} occurs twice in its header row")
