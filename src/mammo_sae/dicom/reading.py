"""Parsing DICOM files in such a way that nothing they hold is repeated in a warning."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from io import BytesIO

import pydicom

# pydicom quotes malformed values, and its warnings end in logs. What is malformed and matters is
# refused with a reason of our own.
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")


def parse_dicom(content: bytes, keywords: Sequence[str], *, pixels: bool) -> pydicom.FileDataset:
    """Parse a file's bytes: only the elements with these keywords, and its file meta information.

    From memory, since pydicom would put a path into its messages. Raises whatever pydicom raises.
    """
    return pydicom.dcmread(
        BytesIO(content), specific_tags=list(keywords), stop_before_pixels=not pixels
    )
