"""From the bytes of a CSV file to rows of cells, however much of it is damaged."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from unicodedata import normalize

LONGEST_CELL = 50
"""Lines that one quoted cell may go over."""
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
BETWEEN = re.compile('[,;\t"\0]')
INVISIBLE = "\ufeff\u200b"
"""Byte order mark and zero-width space, which programs leave within a table."""


@dataclass
class Rows:
    """A table's header row and its rows, `good` as (line, cells), `bad` as (line, why).

    `words` are what could be cells of the bad rows: ids among them tell whom a row may be about.

    Without a header row that can be read `header` is None, and `refused` says why. Lines count
    from 1.
    """

    header: list[str] | None = None
    refused: str = ""
    good: list[tuple[int, list[str]]] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    words: set[str] = field(default_factory=set)


def table_rows(content: bytes, separator: str) -> Rows:
    """Return the rows of a table, whatever program saved it.

    Empty rows are passed over. A row with fewer cells than the header row is as bad as one with
    more: where a separator is lost the cells after it are those of other columns. Cells are without
    surrounding blanks, and composed (NFC), so that a word is the same text whatever system wrote
    it.

    Parameters
    ----------
    content
        Of the file: UTF-8, UTF-16, or Windows-1252.
    separator
        The one that counts where the header row has as many of another.
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
            f"column {twice[0]!r} occurs twice in its header row"
            if twice
            else "its header row is malformed"
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
    """Return a cell as it is compared."""
    text = cell.strip()
    return text if text.isascii() else normalize("NFC", text.strip(INVISIBLE).strip())


def _lines(content: bytes) -> list[str | None]:
    """Return the lines as text, None for one that is none."""
    if content.startswith(UTF_16):
        return _split(content.decode("utf-16", errors="replace"))
    content = content.removeprefix(b"\xef\xbb\xbf")
    found = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    decoded = [_decoded(line, "utf-8") for line in found]
    damaged = sum(line is None for line in decoded)
    beyond = sum(line is not None and not line.isascii() for line in decoded)
    # A damaged byte must not turn the letters of all other rows into others.
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
    """Yield each row's line and its cells, or what is wrong with it."""
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
    """Return the row that begins in a line and goes on in the next ones, and the line after it.

    A quote that was never closed would swallow the rows up to the next one: what has not as many
    cells as the header row is no such row.
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
    """Return the cells of one row; None where its quotes don't match."""
    try:
        reader = csv.reader(lines, delimiter=separator, strict=True)
        cells = next(reader)
        return cells if next(reader, None) is None else None
    except (csv.Error, StopIteration):
        return None
