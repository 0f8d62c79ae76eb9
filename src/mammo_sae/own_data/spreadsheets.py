"""Tables in any common form, as text: CSV of any program, and Excel's .xlsx.

Text stays text: `007`, `1.20` and `1E5` in a cell of text are not numbers. In an .xlsx file a cell
may be a number that Excel shows with zeros (format `000`). Then the text is what Excel shows.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from mammo_sae.cohorts.rows import table_rows, tidy
from mammo_sae.cohorts.sheet import EMPTY
from mammo_sae.errors import counted

CSV = (".csv", ".tsv", ".txt")
EXCEL = (".xlsx", ".xlsm")
OLD_EXCEL = (".xls", ".xlsb", ".ods")
MOST_BYTES = 1 << 29  # of an inflated .xlsx file
FIXED = re.compile(r"(0+)(?:\.(0+))?")


@dataclass(frozen=True)
class Table:
    """A table: its name for messages, its columns, and its rows as (line, cells)."""

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]

    def column(self, name: str) -> list[str]:
        """Return the cells of a column; a cell that means "no value" is empty."""
        at = self.header.index(name)
        return ["" if row[at] in EMPTY else row[at] for _, row in self.rows]


def read_tables(path: Path, name: str) -> tuple[list[Table], list[str]]:
    """Return the tables of a file, and a sentence on each thing that was not read.

    Parameters
    ----------
    path
        A file whose suffix is that of a table.
    name
        The file's path below the person's folder, for messages.
    """
    suffix = path.suffix.lower()
    if suffix in OLD_EXCEL:
        return [], [f"{name} is a spreadsheet of another form; save it as .xlsx or CSV"]
    try:
        if suffix in EXCEL:
            return _excel(path, name)
        return _csv(path, name)
    except OSError as error:
        return [], [f"{name} can't be read ({error.strerror}); get permission to read it"]


def _csv(path: Path, name: str) -> tuple[list[Table], list[str]]:
    rows = table_rows(path.read_bytes(), ",")
    if rows.header is None:
        return [], [f"{name} is not read as a table: {rows.refused}"]
    if len(rows.header) < 2:
        return [], [f"{name} is not read as a table: its first row has one cell"]
    said = []
    if rows.bad:
        line, why = rows.bad[0]
        said.append(
            f"{name}: {counted(len(rows.bad), 'row is', 'rows are')} left out; line {line} {why}"
        )
    found = [(line, tuple(cells)) for line, cells in rows.good]
    return [Table(name, _named(rows.header), tuple(found))], said


def _named(header: list[str]) -> tuple[str, ...]:
    """Return a header row in which a column without a name has its number as a name."""
    return tuple(name or f"column {at}" for at, name in enumerate(header, start=1))


def _excel(path: Path, name: str) -> tuple[list[Table], list[str]]:
    # Imported here because only these files need it.
    from openpyxl import load_workbook

    try:
        with zipfile.ZipFile(path) as packed:
            if sum(part.file_size for part in packed.infolist()) > MOST_BYTES:
                return [], [f"{name} is larger than any table of images; save a part of it as CSV"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and extensions, which are not read
            values = load_workbook(path, read_only=True, data_only=True)
            formulas = load_workbook(path, read_only=True)
    except OSError:
        raise
    except Exception:  # the library raises many kinds of errors on damaged files
        return [], [f"{name} is damaged or protected by a password; save it again as .xlsx or CSV"]
    tables, said = [], []
    several = len(values.worksheets) > 1
    for sheet, written in zip(values.worksheets, formulas.worksheets, strict=True):
        label = f"{name}, sheet {sheet.title!r}" if several else name
        if sheet.sheet_state != "visible":
            said.append(f"{label} is hidden and not read; show it in Excel if it is needed")
            continue
        table, sentence = _sheet(sheet, written, label)
        said += [sentence] if sentence else []
        tables += [table] if table else []
    values.close()
    formulas.close()
    return tables, said


def _sheet(sheet: Any, written: Any, label: str) -> tuple[Table | None, str]:
    for one in (sheet, written):
        one.reset_dimensions()  # some programs write wrong ones
    rows: list[tuple[int, list[str]]] = []
    for line, (cells, sources) in enumerate(
        zip(sheet.iter_rows(), written.iter_rows(), strict=False), start=1
    ):
        for cell, source in zip(cells, sources, strict=False):
            if source.value is not None and cell.value is None:
                return None, (
                    f"{label} is not read: line {line} has a formula without a stored result; "
                    "open and save it in Excel, or save it as CSV"
                )
        texts = [cell_text(cell.value, getattr(cell, "number_format", "General")) for cell in cells]
        if any(texts):
            rows.append((line, texts))
    if not rows:
        return None, ""
    width = max((at for at, text in enumerate(rows[0][1], start=1) if text), default=0)
    if width < 2 or any(any(texts[width:]) for _, texts in rows[1:]):
        return None, (
            f"{label} is not read: cells lie outside of its first row's columns; keep one table "
            "with its column names in the first row"
        )
    header = [tidy(text) for text in rows[0][1][:width]]
    twice = sorted({text for text in header if text and header.count(text) > 1})
    if twice:
        return None, f"{label} is not read: column {twice[0]!r} occurs twice; rename one"
    body = [(line, tuple((texts + [""] * width)[:width])) for line, texts in rows[1:]]
    return Table(label, _named(header), tuple(body)), ""


def cell_text(value: Any, shown: str = "General") -> str:
    """Return the text of a cell of an .xlsx file.

    Parameters
    ----------
    value
        The value: text, number, truth value, date or None.
    shown
        Excel's number format. `000` shows 7 as 007, `0.00` shows 1.2 as 1.20. Other formats change
        no digit here.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int | float):
        return _number_text(value, shown)
    if isinstance(value, datetime):
        return (value.date() if value.time() == time() else value).isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    return tidy(str(value))


def _number_text(value: float, shown: str) -> str:
    form = FIXED.fullmatch(shown)
    if form:
        decimals = len(form[2] or "")
        text = f"{value:0{len(form[1]) + decimals + bool(decimals)}.{decimals}f}"
        if float(text) == value:  # else the format hides digits
            return text
    return str(int(value)) if value == int(value) else repr(value)


def distinct(cells: list[str]) -> Iterator[str]:
    """Yield each text that is not empty once, in order of first occurrence."""
    yield from dict.fromkeys(cell for cell in cells if cell)
