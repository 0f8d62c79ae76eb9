"""Reads the header of an image file without its pixels, and judges it as the conversion does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mammo_sae.dicom.header import READ, Header, read_header
from mammo_sae.dicom.raster import raster_kind, raster_size
from mammo_sae.dicom.reading import open_nameless, parse_dicom
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import TriageSettings
from mammo_sae.dicom.triage import Expected, judge_header

WITHOUT_PIXELS = tuple(keyword for keyword in READ if keyword != "PixelData")


def is_image(path: Path) -> bool:
    """Return whether the first bytes of a file are those of DICOM, PNG, JPEG, TIFF or NPY."""
    try:
        if raster_kind(path):
            return True
        with open_nameless(path) as stream:
            return stream.read(132).endswith(b"DICM")
    except (OSError, Refusal):
        return False


def inspect_header(path: Path) -> Header | None:
    """Return the header of a DICOM file, None for a PNG, JPEG, TIFF or NPY file.

    Raises
    ------
    Refusal
        If the conversion would refuse the file because of its header or its kind. The pixels are
        not decoded, so a file with damaged pixels passes.
    """
    if raster_kind(path):
        raster_size(path)
        return None
    try:
        with open_nameless(path) as stream:
            try:
                dataset = parse_dicom(stream, WITHOUT_PIXELS, pixels=False)
            except Refusal:
                raise
            except Exception as error:  # the parser raises many kinds of errors
                stream.seek(0)
                known = stream.read(132).endswith(b"DICM")
                reason = Reason.TRUNCATED if known else Reason.NOT_IMAGE
                raise Refusal(reason, type(error).__name__) from None
    except OSError:
        raise Refusal(Reason.UNREADABLE) from None
    # A header is refused if there are no pixels. Here they were left unread.
    dataset.add_new("PixelData", "OW", np.zeros(1, "<u2").tobytes())
    try:
        return read_header(dataset)
    except Refusal:
        raise
    except Exception as error:  # elements are parsed when they are read
        raise Refusal(Reason.HEADER, type(error).__name__) from None


def header_reasons(
    path: Path, expected: Expected | None, policy: TriageSettings
) -> tuple[Reason | None, list[Reason]]:
    """Return why a file would be refused by its header, and the reasons that would pass.

    Parameters
    ----------
    path
        An image file of any kind.
    expected
        Side and view by the table. None: those of the header, so that none of them differs.
    policy
        What happens for each reason.
    """
    try:
        header = inspect_header(path)
        if header is None:
            return None, []
        taken = header.acquisition
        own = Expected(side=taken.side or "L", view=taken.view or "CC")
        return None, judge_header(header, expected or own, policy)
    except Refusal as refusal:
        return refusal.reason, []
