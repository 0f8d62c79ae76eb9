"""Elements of a DICOM header, parsed only when used. A malformed element counts as absent.

Code that needs an element checks that it is there. So a file can be read although an element
that no code needs is malformed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")


class Elements:
    """The elements of one dataset.

    Elements are parsed when they are read. `malformed` holds the keywords of malformed elements
    that were read so far, and `commas` those of numbers with decimal commas.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.malformed: set[str] = set()
        self.commas: set[str] = set()

    def value(self, keyword: str) -> Any:
        """Return the element's value; None if it is absent, empty or malformed."""
        try:
            value = self.dataset.get(keyword)
        except Exception:  # the parser raises many kinds of errors when it reads an element
            self.malformed.add(keyword)
            return None
        return None if value is None or value == "" else value

    def text(self, keyword: str) -> str | None:
        """Return the element as upper-case text; several values are joined by a backslash."""
        value = self.value(keyword)
        if value is None:
            return None
        several = isinstance(value, Iterable) and not isinstance(value, str | bytes)
        words = [str(v).strip() for v in value] if several else [str(value).strip()]
        return "\\".join(words).upper() or None

    def numbers(self, keyword: str) -> list[float]:
        """Return the element's numbers, also those with decimal commas; empty without numbers."""
        try:
            value = self.dataset.get(keyword)
            if value is None or value == "":
                return []
            return [float(v) for v in (value if np.iterable(value) else [value])]
        except Exception:  # many kinds of errors, as above
            return self._with_commas(keyword)

    def number(self, keyword: str) -> float | None:
        """Return the element's number; None if there is none or several."""
        found = self.numbers(keyword)
        if len(found) > 1:
            self.malformed.add(keyword)
        return found[0] if len(found) == 1 else None

    def items(self, keyword: str) -> list[Dataset]:
        """Return the items of a sequence; empty if it is absent or malformed."""
        value = self.value(keyword) or []
        if not all(isinstance(item, Dataset) for item in value):
            self.malformed.add(keyword)
            return []
        return list(value)

    def _with_commas(self, keyword: str) -> list[float]:
        # The parser leaves values that it can't convert as bytes, or turns them into text.
        raw = getattr(self.dataset.get_item(keyword), "value", None)
        if isinstance(raw, bytes):
            raw = raw.decode("ascii", "replace")
        if dictionary_VR(keyword) == "DS" and raw:
            words = raw.strip(" \0").split("\\") if isinstance(raw, str) else list(map(str, raw))
            if all(DECIMAL_COMMA.fullmatch(word.strip()) for word in words):
                self.commas.add(keyword)
                return [float(word.replace(",", ".")) for word in words]
        self.malformed.add(keyword)
        return []
