"""Parse the bytes of a CSV file into rows of cells, even if parts of the file are damaged."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from unicodedata import normalize

LONGEST_CELL = 50
"""The most lines of one quoted cell."""
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
BETWEEN = re.compile('[,;\t"\0]')
INVISIBLE = "\ufeff\u200b"
"""Byte order mark and zero-width space, which some programs leave inside a table."""


@dataclass
class Rows:
    """A table's header row and its rows: `good` as (line, cells), `bad` as (line, reason).

    `words` are possible cells of the bad rows. Ids among them show which images or patients a bad
    row may be about.

    If the header row can't be read, `header` is None and `refused` is the reason. Lines count from
    1.
    """

    header: list[str] | None = None
    refused: str = ""
    good: list[tuple[int, list[str]]] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    words: set[str] = field(default_factory=set)


def table_rows(content: bytes, separator: str) -> Rows:
    """Return the rows of a table that any common program saved.

    Empty rows are skipped. A row with fewer or more cells than the header row is bad, because after
    a lost separator the cells belong to other columns. Cells have no surrounding blanks and are
    composed (NFC), so that a word is the same text on every system.

    Parameters
    ----------
    content
        Content of the file in UTF-8, UTF-16 or Windows-1252.
    separator
        The separator to use if no other one is more frequent in the header row.
    """
    rows = Rows()
    lines = _lines(content)
    start = next((at for at, line in enumerate(lines) if line != ""), None)
    if start is None:
        rows.refused = "it is empty; a header row is needed"
        return rows
    first = lines[start]
    if first is None or "\0" in first:
        rows.refused = "its header row holds bytes that are no text; save it as CSV again"
        return rows
    marks = {mark: first.count(mark) for mark in (separator, ",", ";", "\t")}
    separator = max(marks, key=marks.__getitem__)
    names = [tidy(name) for name in _cells([first], separator) or ()]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice or not any(names):
        rows.refused = (
            f"column {twice[0]!r} occurs twice in its header row; rename one"
            if twice
            else "its header row is malformed; name its columns there"
        )
        return rows
    width = max(at for at, name in enumerate(names, start=1) if name)
    rows.header = names = names[:width]
    for line, cells in _records(lines, start + 1, separator, len(names)):
        if isinstance(cells, str):
            rows.bad.append((line, cells))
            continue
        row = [tidy(cell) for cell in cells]
        if not any(row):
            continue
        if len(row) < width or any(row[width:]):
            rows.bad.append((line, f"has {len(row)} cells; the header row has {width}"))
        else:
            rows.good.append((line, row[:width]))
    if rows.bad:
        text = content.decode("utf-16" if content[:2] in UTF_16 else "utf-8", errors="replace")
        whole = _split(text, damaged=True)
        for line, _ in rows.bad:
            rows.words |= {tidy(word) for word in BETWEEN.split(whole[line - 1] or "")} - {""}
    return rows


def tidy(cell: str) -> str:
    """Return a cell in the form that is used for comparisons."""
    text = cell.strip()
    return text if text.isascii() else normalize("NFC", text.strip(INVISIBLE).strip())


def _lines(content: bytes) -> list[str | None]:
    """Return the lines as text, None for a line that is not text."""
    if content.startswith(UTF_16):
        return _split(content.decode("utf-16", errors="replace"))
    content = content.removeprefix(b"\xef\xbb\xbf")
    found = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    decoded = [_decoded(line, "utf-8") for line in found]
    damaged = sum(line is None for line in decoded)
    beyond = sum(line is not None and not line.isascii() for line in decoded)
    # A few damaged bytes must not change how all other rows are decoded.
    return decoded if damaged <= beyond else [_decoded(line, "cp1252") for line in found]


def _split(text: str, *, damaged: bool = False) -> list[str | None]:
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [None if "\ufffd" in line and not damaged else line for line in lines]


def _decoded(line: bytes, encoding: str) -> str | None:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        return None


def _records(
    lines: Sequence[str | None], at: int, separator: str, width: int
) -> Iterator[tuple[int, list[str] | str]]:
    """Yield each row's line, and its cells or the reason why the row is bad."""
    while at < len(lines):
        line, number, after = lines[at], at + 1, at + 1
        if line is None:
            yield number, "holds bytes that are no text"
        elif "\0" in line:
            yield number, "holds NUL bytes"
        elif line:
            cells = _cells([line], separator)
            if cells is None:
                cells, after = _over_several(lines, at, separator, width)
            yield number, "has a quote that does not end" if cells is None else cells
        at = after


def _over_several(
    lines: Sequence[str | None], at: int, separator: str, width: int
) -> tuple[list[str] | None, int]:
    """Return the cells of the row that begins in line `at`, and the number of the line after it.

    The row continues in the next lines, because a quote is open. A quote that is never closed would
    include all rows up to the next quote. So a row over several lines counts only if it has as many
    cells as the header row. Otherwise the cells are None.
    """
    for last in range(at + 1, min(at + LONGEST_CELL, len(lines))):
        line = lines[last]
        if line is None or "\0" in line:
            break
        if '"' in line:
            cells = _cells([f"{one}\n" for one in lines[at : last + 1]], separator)
            if cells is not None and len(cells) == width:
                return cells, last + 1
    return None, at + 1


def _cells(lines: list[str], separator: str) -> list[str] | None:
    """Return the cells of one row, None if its quotes don't match."""
    try:
        reader = csv.reader(lines, delimiter=separator, strict=True)
        cells = next(reader)
        return cells if next(reader, None) is None else None
    except (csv.Error, StopIteration):
        return None
