"""Parsing DICOM files in such a way that nothing they hold is repeated in a warning."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pydicom

# pydicom quotes malformed values, and its warnings end in logs. What is malformed and matters is
# refused with a reason of our own.
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")


def parse_dicom(stream: BinaryIO, keywords: Sequence[str], *, pixels: bool) -> pydicom.FileDataset:
    """Parse a file: only the elements with these keywords, and its file meta information.

    `stream` must have no path for a name: pydicom would put it into its messages. Raises whatever
    pydicom raises.
    """
    return pydicom.dcmread(stream, specific_tags=list(keywords), stop_before_pixels=not pixels)


@contextmanager
def open_nameless(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, without its path for a name."""
    with os.fdopen(os.open(path, os.O_RDONLY), "rb") as stream:
        yield stream
