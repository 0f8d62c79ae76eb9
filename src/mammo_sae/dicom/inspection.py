"""Reads the header of an image file without its pixels, and judges it as the conversion does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mammo_sae.dicom.header import READ, Header, read_header
from mammo_sae.dicom.raster import raster_kind, raster_size
from mammo_sae.dicom.reading import open_nameless, parse_file
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
    dataset = parse_file(path, WITHOUT_PIXELS, pixels=False)
    # A header is refused if there are no pixels. Here they were left unread.
    dataset.add_new("PixelData", "OW", np.zeros(1, "<u2").tobytes())
    return read_header(dataset)


@dataclass(frozen=True)
class Judged:
    """How a file is judged by its header.

    `refused` is why it would be refused, None if it would not; `passed` are reasons that the policy
    lets pass; `uid` is its SOPInstanceUID, which must not be shown.
    """

    refused: Reason | None
    passed: tuple[Reason, ...] = ()
    uid: str = field(default="", repr=False)


def judge_file(
    path: Path,
    policy: TriageSettings,
    expected: Expected | None = None,
    size: tuple[int, int] | None = None,
) -> Judged:
    """Judge a file by its header, as the conversion does before it decodes pixels.

    Parameters
    ----------
    path
        An image file of any kind.
    policy
        What happens for each reason.
    expected
        Side and view by the table. None: those of the header, so that none of them differs.
    size
        Rows and columns by the table. None: any.
    """
    try:
        header = inspect_header(path)
        uid, passed = "", []
        if header is None:
            own = raster_size(path)
        else:
            taken = header.acquisition
            uid, own = taken.uid, (header.rows, header.columns)
            same = Expected(side=taken.side or "L", view=taken.view or "CC")
            passed = judge_header(header, expected or same, policy)
        if size is not None and own != size:
            raise Refusal(Reason.SIZE)
        return Judged(None, tuple(passed), uid)
    except Refusal as refusal:
        return Judged(refusal.reason)
