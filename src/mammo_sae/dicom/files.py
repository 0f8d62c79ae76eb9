"""Reads an image file of any supported kind, DICOM or raster: its header and pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mammo_sae.dicom import pixels
from mammo_sae.dicom.header import Header
from mammo_sae.dicom.raster import raster_kind, raster_size, read_raster
from mammo_sae.dicom.refusal import Reason, Refusal


def read_image(path: Path) -> tuple[Header, np.ndarray]:
    """Read one file with `mammo_sae.dicom.pixels.read_pixels` or `...raster.read_raster`.

    Raises
    ------
    Refusal
        If the file can't be read with certainty. The refusal holds the reason.
    """
    return read_raster(path) if raster_kind(path) else pixels.read_pixels(path)


def why_unreadable(path: Path) -> Reason:
    """Return why an image's header can't be read, without decoding pixels."""
    try:
        if raster_kind(path):
            raster_size(path)
            return Reason.HEADER
    except Refusal as refusal:
        return refusal.reason
    return pixels.why_unreadable(path)
