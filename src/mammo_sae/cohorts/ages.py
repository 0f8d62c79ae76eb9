"""Parsing of ages from headers and tables."""

from __future__ import annotations

import re

YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
LEAST, MOST = 15, 110
"""An age outside of these limits means "unknown": 000Y, 999Y, -1."""


def age_in_years(text: str) -> int | None:
    """Return the age in years from a DICOM age string (060Y, 720M) or a number of years (61.2).

    None if the text is empty or the age is outside the range for mammography.

    Raises
    ------
    ValueError
        If the text is not an age.
    """
    text = text.strip().upper()
    if not text:
        return None
    found = re.fullmatch(r"(-?\d{1,5})(?:[.,]\d{0,20})?\s*([YMWD]?)", text)
    if not found:
        raise ValueError
    years = int(int(found[1]) * YEARS[found[2]] + 1e-9)
    return years if LEAST <= years <= MOST else None
