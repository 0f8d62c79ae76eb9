"""An image file of any kind that is read, DICOM or raster: its header and pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mammo_sae.dicom import pixels
from mammo_sae.dicom.header import Header
from mammo_sae.dicom.raster import raster_kind, raster_size, read_raster
from mammo_sae.dicom.refusal import Reason, Refusal


def read_image(path: Path) -> tuple[Header, np.ndarray]:
    """Read one file, as `mammo_sae.dicom.pixels.read_pixels` or `...raster.read_raster` does.

    Raises
    ------
    Refusal
        With the reason, if the file can't be read with certainty.
    """
    return read_raster(path) if raster_kind(path) else pixels.read_pixels(path)


def why_unreadable(path: Path) -> Reason:
    """Return why nothing can be known of an image from its header; no pixels are decoded."""
    try:
        if raster_kind(path):
            raster_size(path)
            return Reason.HEADER
    except Refusal as refusal:
        return refusal.reason
    return pixels.why_unreadable(path)
