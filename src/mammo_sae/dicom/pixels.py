"""From a DICOM file to display values: decoding, modality and VOI transformations, inversion.

All of these transformations act on one stored value at a time, and a stored value has at most 16
bits. So they are composed once into a table over all stored values, and a pixel costs one look-up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder

from mammo_sae.dicom.header import READ, Header, Lut, Window, read_header
from mammo_sae.dicom.reading import open_nameless, parse_dicom
from mammo_sae.dicom.refusal import Reason, Refusal

DECODERS = {
    uid.JPEGBaseline8Bit: "gdcm",
    uid.JPEGExtended12Bit: "pylibjpeg",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "gdcm",
    uid.JPEG2000: "gdcm",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
    uid.RLELossless: "pydicom",
}
"""The one decoder of each compressed transfer syntax.

There is no second choice: pydicom would try others in turn, and pylibjpeg decodes truncated JPEG
Lossless and JPEG-LS data without an error, half of the pixels wrong.
"""

NATIVE = {
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
}
"""The syntaxes whose pixels are not compressed; deflated files are inflated when parsed."""

UNCHECKED = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit}
"""Syntaxes whose only decoders fill up a truncated stream; its end marker is looked for first."""


def read_pixels(path: Path) -> tuple[Header, np.ndarray]:
    """Read one DICOM file.

    Returns
    -------
    Header
        Its allow-listed attributes.
    numpy.ndarray
        Codes [rows, columns], uint8 or uint16: the `bits_stored` bits of each pixel, right-aligned,
        as an index into the tables of this module (two's complement where the pixels are signed).

    Raises
    ------
    Refusal
        With the reason, if the file can't be read and decoded with certainty.
    """
    dataset, header = _parse(path)
    return header, _decode(dataset, header)


def why_unreadable(path: Path) -> Reason:
    """Return why nothing can be known of an image from its header; no pixels are decoded."""
    try:
        _parse(path)
    except Refusal as refusal:
        return refusal.reason
    return Reason.HEADER


def _parse(path: Path) -> tuple[pydicom.Dataset, Header]:
    try:
        with open_nameless(path) as stream:
            try:
                dataset = parse_dicom(stream, READ, pixels=True)
            except Exception as error:  # the parser raises many kinds on what is no DICOM file
                stream.seek(0)
                known = stream.read(132).endswith(b"DICM")
                reason = Reason.TRUNCATED if known else Reason.NOT_IMAGE
                raise Refusal(reason, type(error).__name__) from None
    except FileNotFoundError:
        raise Refusal(Reason.MISSING) from None
    except OSError:
        raise Refusal(Reason.UNREADABLE) from None
    try:
        header = read_header(dataset)
    except Refusal:
        raise
    except Exception as error:  # elements are parsed when they are asked for
        raise Refusal(Reason.HEADER, type(error).__name__) from None
    return dataset, header


def _decode(dataset: pydicom.Dataset, header: Header) -> np.ndarray:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    native = syntax in NATIVE
    if not native and syntax not in DECODERS:
        raise Refusal(Reason.SYNTAX)
    shift = header.high_bit + 1 - header.bits_stored
    if shift and not (native or syntax == uid.RLELossless):
        # A compressed stream carries its own precision, which then contradicts the header.
        raise Refusal(Reason.BITS)
    if syntax in UNCHECKED and _is_truncated(dataset, header):
        raise Refusal(Reason.TRUNCATED)
    try:
        pixels, _ = get_decoder(syntax).as_array(
            dataset,
            raw=True,
            decoding_plugin="" if native else DECODERS[syntax],
            **({"correct_unused_bits": False} if native or syntax == uid.RLELossless else {}),
        )
    except Exception as error:  # every decoder raises its own kinds; all mean the same here
        reason = Reason.TRUNCATED if _is_truncated(dataset, header) else Reason.DECODE
        raise Refusal(reason, type(error).__name__) from None
    if pixels.shape != (header.rows, header.columns) or pixels.dtype.itemsize > 2:
        raise Refusal(Reason.DECODE, "size")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    codes = pixels.view(f"u{pixels.dtype.itemsize}")
    if shift:
        codes = codes >> shift
    most = codes.dtype.type((1 << header.bits_stored) - 1)
    # Rubbish in unused bits is rare, and a copy of the image takes longer than looking for it.
    return codes & most if codes.size and codes.max() > most else codes


def _is_truncated(dataset: pydicom.Dataset, header: Header) -> bool:
    """Say whether the pixels' end is missing, as far as their syntax can tell."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in NATIVE:
        return len(dataset.PixelData) < header.rows * header.columns * header.bits_allocated // 8
    if syntax == uid.RLELossless:
        return False
    try:
        stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    except Exception:  # fragments that can't be told apart: a part of them is missing
        return True
    # Streams of all JPEG families end with the same marker; writers pad with either byte.
    return not stream.rstrip(b"\0\xff").endswith(b"\xff\xd9")


def stored_values(header: Header) -> np.ndarray:
    """Return the stored value of every code: int32 [2 ** bits_stored]."""
    codes = np.arange(1 << header.bits_stored, dtype=np.int32)
    if header.signed:
        codes[codes >= 1 << (header.bits_stored - 1)] -= 1 << header.bits_stored
    return codes


def padding_codes(header: Header) -> np.ndarray:
    """Return which codes mean "no image here": bool [2 ** bits_stored]."""
    values = stored_values(header)
    if header.padding is None:
        return np.zeros(values.shape, dtype=bool)
    first, last = header.padding
    return (values >= first) & (values <= last)


def modality_values(header: Header) -> tuple[np.ndarray, float, float]:
    """Return the modality transformation of every code, and its nominal range.

    The Modality LUT or, without one, the rescale slope and intercept (PS3.3 C.11.1.1).
    """
    values = stored_values(header)
    if header.modality_lut is not None:
        return _look_up(header.modality_lut, values), 0.0, 2.0**header.modality_lut.bits - 1
    scaled = values * header.slope + header.intercept
    return scaled, float(scaled.min()), float(scaled.max())


def display_values(header: Header, *, voi: str = "header", voi_index: int = 0) -> np.ndarray:
    """Return the display value of every code: float32 [2 ** bits_stored], 0 dark to 1 bright.

    Modality transformation, then the VOI LUT or window with this index (`voi` "header") or the
    full nominal range ("none", or nothing in the header), then inversion of MONOCHROME1 by the
    nominal range, never by the values that happen to occur. Padding becomes 0.

    Raises
    ------
    Refusal
        If the window is malformed or there is no VOI transformation with this index.
    """
    values, low, high = modality_values(header)
    alternatives = header.voi_luts or header.windows
    if voi == "none" or not alternatives:
        shown = (values - low) / max(high - low, 1e-12)
    elif voi_index >= len(alternatives):
        raise Refusal(Reason.WINDOW)
    elif header.voi_luts:
        lut = header.voi_luts[voi_index]
        shown = _look_up(lut, values) / (2.0**lut.bits - 1)
    else:
        shown = _windowed(values, header.windows[voi_index], header.voi_function)
    if header.inverted:
        shown = 1.0 - shown
    shown[padding_codes(header)] = 0.0
    return shown.astype(np.float32)


def _look_up(lut: Lut, values: np.ndarray) -> np.ndarray:
    index = np.clip(np.rint(values).astype(np.int64) - lut.first, 0, len(lut.values) - 1)
    return lut.values[index]


def _windowed(values: np.ndarray, window: Window, function: str) -> np.ndarray:
    """Apply a window (PS3.3 C.11.2.1.2.1 LINEAR, C.11.2.1.3.1 SIGMOID, .2 LINEAR_EXACT)."""
    center, width = window.center, window.width
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise Refusal(Reason.WINDOW)
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    if function == "LINEAR":
        if width == 1:
            return (values > center - 0.5).astype(np.float64)
        return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)
    raise Refusal(Reason.WINDOW)
