"""Parses DICOM files so that no warning repeats a value of the file."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mammo_sae.dicom.refusal import Reason, Refusal

MOST_INFLATED = 1 << 29  # bytes of an inflated file; the largest image has less than half of it
CHUNK = 1 << 20

# pydicom quotes malformed values in its warnings, which would reach logs. A malformed element that
# matters is refused with a reason of this package.
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")


def parse_dicom(stream: BinaryIO, keywords: Sequence[str], *, pixels: bool) -> pydicom.FileDataset:
    """Parse a file: only the elements with these keywords, and its file meta information.

    `stream` must not have a path as its name, since pydicom would put it into messages. Raises
    pydicom's errors, and a Refusal if the file is deflated and larger than any image.
    """
    _check_inflated(stream)
    return pydicom.dcmread(stream, specific_tags=list(keywords), stop_before_pixels=not pixels)


def parse_file(path: Path, keywords: Sequence[str], *, pixels: bool) -> pydicom.FileDataset:
    """Parse the file `path` as `parse_dicom` does.

    Raises
    ------
    Refusal
        If the file is missing, can't be read, is cut off or is no DICOM file.
    """
    try:
        with open_nameless(path) as stream:
            try:
                return parse_dicom(stream, keywords, pixels=pixels)
            except Refusal:
                raise
            except Exception as error:  # on other files, the parser raises many kinds of errors
                stream.seek(0)
                known = stream.read(132).endswith(b"DICM")
                reason = Reason.TRUNCATED if known else Reason.NOT_IMAGE
                raise Refusal(reason, type(error).__name__) from None
    except FileNotFoundError:
        raise Refusal(Reason.MISSING) from None
    except OSError:
        raise Refusal(Reason.UNREADABLE) from None


def _check_inflated(stream: BinaryIO) -> None:
    """Check the size of a deflated file piece by piece; pydicom would inflate all of it at once."""
    read_preamble(stream, force=False)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while (piece := stream.read(CHUNK)) and not inflater.eof:
            while piece and not inflater.eof:
                total += len(inflater.decompress(piece, CHUNK))
                piece = inflater.unconsumed_tail
                if total > MOST_INFLATED:
                    raise Refusal(Reason.TOO_LARGE)
    stream.seek(0)


@contextmanager
def open_nameless(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, without its path as the stream's name."""
    with os.fdopen(os.open(path, os.O_RDONLY), "rb") as stream:
        yield stream
