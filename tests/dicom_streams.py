"""Write one frame as a stream of a JPEG family, with encoders that the package does not use."""

from __future__ import annotations

from functools import partial

import imagecodecs
import numpy as np
from pydicom import uid

# JPEG streams contain unsigned values, and only the header gives the sign. JPEG 2000 has signs.
ENCODERS = {
    uid.JPEGBaseline8Bit: partial(imagecodecs.jpeg_encode, level=100),
    uid.JPEGExtended12Bit: partial(imagecodecs.jpeg_encode, level=100, bitspersample=12),
    uid.JPEGLossless: partial(imagecodecs.jpeg_encode, lossless=True, predictor=6),
    uid.JPEGLosslessSV1: partial(imagecodecs.jpeg_encode, lossless=True, predictor=1),
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEGLSNearLossless: partial(imagecodecs.jpegls_encode, level=2),
}
VALUES = {
    uid.JPEG2000Lossless: partial(imagecodecs.jpeg2k_encode, codecformat="j2k", reversible=True),
    uid.JPEG2000: partial(imagecodecs.jpeg2k_encode, codecformat="j2k", level=80),
    uid.HTJ2KLossless: partial(imagecodecs.htj2k_encode, reversible=True),
    uid.HTJ2KLosslessRPCL: partial(imagecodecs.htj2k_encode, reversible=True),
    uid.HTJ2K: partial(imagecodecs.htj2k_encode, level=1e-5, reversible=False),
}


def encoded(stored: np.ndarray, bits: int, syntax: str) -> bytes:
    """Return one frame of stored values [rows, columns] as a stream of a JPEG family."""
    if syntax in VALUES:
        depth = {"bitspersample": bits} if syntax in {uid.JPEG2000, uid.JPEG2000Lossless} else {}
        return bytes(VALUES[syntax](stored, **depth))
    values = stored.view(f"u{stored.dtype.itemsize}") & ((1 << bits) - 1)
    depth = {"bitspersample": bits} if syntax in {uid.JPEGLossless, uid.JPEGLosslessSV1} else {}
    return bytes(ENCODERS[syntax](values.astype("u1" if bits <= 8 else "u2"), **depth))
