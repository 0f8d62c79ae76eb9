"""Tests whether the header's padding value marks padding, or is also a value of tissue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from mammo_sae.dicom.header import Header
from mammo_sae.dicom.pixels import padding_values
from mammo_sae.dicom.refusal import Reason

FINE = 1024  # pixels of the longer side that are examined
VISIBLE = 0.05  # display value below which a pixel looks black with or without padding
LEAST_INSIDE = 0.0001  # share of the image's pixels


def with_believed_padding(
    header: Header, stored: np.ndarray, unpadded: np.ndarray
) -> tuple[Header, frozenset[Reason]]:
    """Return the header, without the padding value if it is not padding, and notices.

    Padding fills the area around the breast, so it reaches the image's edge. Pixels of the padding
    value that do not reach the edge, and would be visible without padding, are tissue. If they are
    the majority, the value is not padding: all pixels are shown, with a notice. If they are fewer
    but more than `LEAST_INSIDE`, there is only a notice.

    Parameters
    ----------
    header, stored
        As `mammo_sae.dicom.files.read_image` returns them.
    unpadded
        Display value of each stored value without padding, 0 dark to 1 bright.
    """
    step = max(1, max(stored.shape) // FINE)
    part = stored[::step, ::step]
    where = padding_values(header)[part]
    if not where.any():
        return header, frozenset()
    labels, n = ndimage.label(where, structure=np.ones((3, 3)))
    inside = np.ones(n + 1, dtype=bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        inside[edge] = False
    inside[0] = False
    tissue = inside[labels] & (unpadded[part] > VISIBLE)
    if 2 * tissue.sum() > where.sum():
        return replace(header, padding=None), frozenset({Reason.PADDING})
    many = tissue.sum() > LEAST_INSIDE * part.size
    return header, frozenset({Reason.PADDING} if many else ())
