"""From a DICOM file to display values: decoding, modality and VOI transformations, inversion.

All of these transformations act on single stored values, which have at most 16 bits. So they are
composed once into a table over all stored values, and each pixel costs one look-up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder

from mammo_sae.dicom.header import READ, Header, Lut, Window, read_header
from mammo_sae.dicom.reading import parse_file
from mammo_sae.dicom.refusal import Reason, Refusal

DECODERS: dict[str, str] = {
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
"""The only decoder of each compressed transfer syntax.

Without this choice pydicom would try several decoders. One of them, pylibjpeg, decodes truncated
JPEG Lossless and JPEG-LS data without an error, with half of the pixels wrong.
"""

NATIVE = {
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
}
"""Transfer syntaxes with uncompressed pixels. Deflated files are inflated when parsed."""

DEPTHS = (8, 10, 12, 14)  # usual bits per pixel of detectors and their software
ROWS_COMPARED = 256
FLAGS, CONTINUED = 0.05, 0.8
"""Shares of neighbours. Below the first, upper bits are flags; above the second, they are values.
"""
CLEARLY = 4  # ratio of differences from which one reading is clearly better

NEAR = 0.125  # share of the range within which neighbouring pixels count as similar
LEAST_WRAPPED = 0.002  # smallest share of pixels that jump between the ends of the range

LOSSY = {
    uid.UID(syntax).keyword
    for syntax in (
        uid.JPEGExtended12Bit,
        uid.JPEGLSNearLossless,
        uid.JPEG2000,
        uid.HTJ2K,
    )
}
OVERSHOOT = 0.03  # share of the range by which lossy coding may exceed it, without more bits

UNCHECKED = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit}
"""Syntaxes whose only decoders fill up a truncated stream, so its end marker is checked first."""


def read_pixels(path: Path) -> tuple[Header, np.ndarray]:
    """Read one DICOM file.

    Returns
    -------
    Header
        The allow-listed attributes.
    numpy.ndarray
        Stored values [rows, columns], uint8 or uint16: the `bits_stored` bits of each pixel,
        right-aligned (two's complement if signed). They index the tables of this module.

    Raises
    ------
    Refusal
        If the file can't be read and decoded with certainty. The refusal holds the reason.
    """
    dataset, header = _parse(path)
    stored, precision = _decode(dataset, header)
    header, stored = _within_bits(header, stored)
    return _with_shown_range(_with_believed_sign(header, stored), stored, precision), stored


def why_unreadable(path: Path) -> Reason:
    """Return why an image's header can't be read, without decoding pixels."""
    try:
        _parse(path)
    except Refusal as refusal:
        return refusal.reason
    return Reason.HEADER


def _parse(path: Path) -> tuple[pydicom.Dataset, Header]:
    dataset = parse_file(path, READ, pixels=True)
    return dataset, read_header(dataset)


def _decode(dataset: pydicom.Dataset, header: Header) -> tuple[np.ndarray, int]:
    """Return decoded pixels [rows, columns] and the bits per pixel of their stream; 0: unknown."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not isinstance(syntax, str):  # no value, or several
        raise Refusal(Reason.SYNTAX)
    native = syntax in NATIVE
    if not native and syntax not in DECODERS:
        raise Refusal(Reason.SYNTAX)
    shift = header.high_bit + 1 - header.bits_stored
    if shift and not (native or syntax == uid.RLELossless):
        # A compressed stream has its own precision, which here contradicts the header.
        raise Refusal(Reason.BITS)
    if syntax in UNCHECKED and _is_truncated(dataset, header):
        raise Refusal(Reason.TRUNCATED)
    options: dict[str, Any] = {}
    if native or syntax == uid.RLELossless:
        options = {"correct_unused_bits": False}
    precision, has_sign = 0, False
    if not native and syntax != uid.RLELossless:
        precision, has_sign, size = _frame(dataset)
        # A stream may claim any size, and its decoder allocates all of it.
        if 0 not in size and size != (header.rows, header.columns):
            raise Refusal(Reason.DECODE, "size")
    if native or syntax == uid.RLELossless:
        _check_excess(dataset, header)
    if header.bits_stored < precision <= header.bits_allocated:
        # Decoders reduce the stream's values to the bits that they are given.
        options = {"bits_stored": precision, "correct_unused_bits": False}
    try:
        pixels, _ = get_decoder(syntax).as_array(
            dataset,
            raw=True,
            decoding_plugin="" if native else DECODERS[syntax],
            **options,
        )
    except Exception as error:  # decoders raise many kinds of errors for the same fault
        reason = Reason.TRUNCATED if _is_truncated(dataset, header) else Reason.DECODE
        raise Refusal(reason, type(error).__name__) from None
    if pixels.shape != (header.rows, header.columns) or pixels.dtype.itemsize > 2:
        raise Refusal(Reason.DECODE, "size")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    stored = pixels.view(f"u{pixels.dtype.itemsize}")
    top = min(max(precision, header.bits_stored), 8 * stored.itemsize) - 1
    if has_sign and not header.signed and (stored >> top).any():
        raise Refusal(Reason.BITS)
    fewer = 0 < precision < header.bits_stored
    if header.signed and fewer and not has_sign and (stored >> (precision - 1)).any():
        # The stream's highest bit may be the sign, which the header has in a higher bit.
        raise Refusal(Reason.BITS)
    if header.signed and header.bits_stored < precision <= header.bits_allocated:
        # Some decoders leave the sign in the stream's highest bit.
        unused = header.bits_allocated - precision
        stored = ((stored << unused).view(f"i{stored.itemsize}") >> unused).view(stored.dtype)
    return stored, precision


def _check_excess(dataset: pydicom.Dataset, header: Header) -> None:
    """Refuse uncompressed or RLE data that hold at least one row more than the header says.

    The header's size is then wrong, but decoders would cut off the excess. Excess of uncompressed
    zeros is allowed as padding.
    """
    pixels, columns = header.rows * header.columns, header.columns
    if dataset.file_meta.TransferSyntaxUID == uid.RLELossless:
        try:
            frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        except Exception:  # damaged; the decoder will raise
            return
        too_much = any(length >= pixels + columns for length in _rle_lengths(frame))
    else:
        width = header.bits_allocated // 8
        rest = memoryview(dataset.PixelData)[pixels * width :]
        too_much = len(rest) >= columns * width and bool(np.frombuffer(rest, "u1").any())
    if too_much:
        raise Refusal(Reason.DECODE, "size")


def _rle_lengths(frame: bytes) -> Iterator[int]:
    """Yield the decoded length in bytes of each segment of an RLE frame (PS3.5 G.3).

    The frame is not decoded.
    """
    count = int.from_bytes(frame[:4], "little")
    starts = [int.from_bytes(frame[4 * i : 4 * i + 4], "little") for i in range(1, 16)][:count]
    for start, end in pairwise([*starts, len(frame)]):
        length, at, end = 0, start, min(end, len(frame))
        while at < end - 1:  # segments are padded to an even length
            head = frame[at]
            if head < 128:
                length += head + 1
                at += head + 2
            else:
                length += 257 - head if head > 128 else 0
                at += 2 if head > 128 else 1
        yield length


def _frame(dataset: pydicom.Dataset) -> tuple[int, bool, tuple[int, int]]:
    """Return bits per pixel, whether pixels are signed, and (rows, columns) of a JPEG stream.

    They are read from its frame header (SOF, at the same place in JPEG-LS) or its SIZ segment (JPEG
    2000, the only format with signs). 0 means unknown.
    """
    unknown = 0, False, (0, 0)
    try:
        stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
        at = 2
        while at + 5 < len(stream):
            marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
            if stream[at] != 0xFF or length < 2:
                return unknown
            if marker == 0x51:
                ends, starts = stream[at + 6 : at + 14], stream[at + 14 : at + 22]
                columns, rows = (
                    int.from_bytes(ends[i : i + 4], "big")
                    - int.from_bytes(starts[i : i + 4], "big")
                    for i in (0, 4)
                )
                return (stream[at + 40] & 0x7F) + 1, stream[at + 40] >= 0x80, (rows, columns)
            if marker in {0xC0, 0xC1, 0xC2, 0xC3, 0xF7}:
                rows, columns = (int.from_bytes(stream[at + i : at + i + 2], "big") for i in (5, 7))
                return stream[at + 4], False, (rows, columns)
            at += 2 + length
    except Exception:  # a damaged stream; its decoder will raise
        return unknown
    return unknown


def _within_bits(header: Header, stored: np.ndarray) -> tuple[Header, np.ndarray]:
    """Return stored values right-aligned and masked, and a header with their actual bits.

    Bits above those of the header are usually flags or noise, and are cut off. But if they are the
    upper bits of the pixel values, the header is wrong and all bits are used.
    """
    shift = header.high_bit + 1 - header.bits_stored
    if shift:
        # Left-aligned values have empty lowest bits. Otherwise the position would be a guess.
        if (stored & stored.dtype.type((1 << shift) - 1)).any():
            raise Refusal(Reason.BITS)
        stored = stored >> shift
    most = stored.dtype.type((1 << header.bits_stored) - 1)
    values = stored.view(f"i{stored.itemsize}") if header.signed and not shift else stored
    # Check the range first: a copy of the image would take longer.
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high <= most:
        return header, stored
    if header.syntax in LOSSY:
        first = -(1 << (header.bits_stored - 1)) if header.signed else 0
        last, margin = first + int(most), int(OVERSHOOT * most)
        if first - margin <= low and high <= last + margin:
            return header, values.clip(first, last).view(stored.dtype) & most
        if header.signed and low >= 0 and high <= int(most) + margin:
            # JPEG streams hold signed values without the upper bits: 0 comes after -1.
            return header, stored & most
    fits = header.signed and _bits_of(low, high) <= header.bits_stored
    # A table may reorder values, so that distant values are displayed as similar greys.
    if shift or fits or (header.signed and header.modality_lut is not None):
        return header, stored & most
    share = _continuation(values, header.bits_stored, signed=header.signed)
    if share < FLAGS:
        return header, stored & most
    if share < CONTINUED:
        raise Refusal(Reason.BITS)
    bits = _bits_of(low, high) if header.signed else high.bit_length()
    notices = header.notices | {Reason.BITS_EXCEEDED}
    header = replace(header, bits_stored=bits, high_bit=bits - 1, notices=notices)
    return header, stored & stored.dtype.type((1 << bits) - 1)


def _bits_of(low: int, high: int) -> int:
    """Return the number of bits for signed values between `low` and `high`."""
    return max(high, ~low).bit_length() + 1


def _continuation(values: np.ndarray, bits: int, *, signed: bool) -> float:
    """Return in which share of neighbouring pixels the bits above `bits` seem to be value bits.

    Only neighbours that differ in these bits are examined. Neighbours are mostly similar. If their
    difference is clearly smaller with these bits than without them, the bits belong to the value.
    If it is clearly larger, the bits are flags. Other neighbours are unclear and are not counted.
    If all neighbours are unclear, the result lies between `FLAGS` and `CONTINUED`.
    """
    rows = values[:: max(1, len(values) // ROWS_COMPARED)].astype(np.int32)
    above = (rows + ((1 << (bits - 1)) if signed else 0)) >> bits
    changed = np.diff(above, axis=1) != 0
    if not changed.any():
        return 0.0
    whole = np.abs(np.diff(rows, axis=1))[changed]
    cut = np.abs(np.diff(rows - (above << bits), axis=1))[changed]
    goes_on, is_flag = (CLEARLY * whole < cut).sum(), (CLEARLY * cut < whole).sum()
    return float(goes_on / (goes_on + is_flag)) if goes_on + is_flag else (FLAGS + CONTINUED) / 2


def _with_believed_sign(header: Header, stored: np.ndarray) -> Header:
    """Return the header, with a notice if its pixels seem to have the other sign.

    Only neighbouring pixels whose highest bits differ are examined. With the right sign, most of
    them lie close together, on both sides of the middle of the range. With the wrong sign, most of
    them lie at opposite ends of the range. The notice is given if the second case is far more
    frequent than the first.
    """
    bits = header.bits_stored
    if int(stored.max()) >> (bits - 1) == 0:
        return header
    rows = stored[:: max(1, len(stored) // ROWS_COMPARED)].astype(np.int32)
    between = np.diff(rows >> (bits - 1), axis=1) != 0
    image = ~padding_values(header)[rows]
    between &= image[:, 1:] & image[:, :-1]
    steps = np.abs(np.diff(signed_values(header)[rows], axis=1))[between]
    near = (1 << bits) * NEAR
    in_the_middle, at_both_ends = (steps < near).sum(), (steps > (1 << bits) - near).sum()
    if at_both_ends > max(LEAST_WRAPPED * rows.size, 4 * in_the_middle):
        return replace(header, notices=header.notices | {Reason.SIGN})
    return header


def _with_shown_range(header: Header, stored: np.ndarray, precision: int) -> Header:
    """Return the header with the range that pixels use, if it is smaller than the header's.

    Some encoders leave out the bits that an image does not need. A stream of `precision` bits is
    therefore shown in the range of the smallest of 8, 10, 12 or 14 bits that holds `precision`.
    No detector has 16 bits. If a header says so, it often means the bits allocated for a pixel. The
    range is then that of the smallest of these depths that holds all pixels except padding.
    """
    bits = next((depth for depth in DEPTHS if 0 < precision <= depth), 16)
    if bits < header.bits_stored:
        return replace(header, shown=_range_of(bits, signed=header.signed))
    if header.bits_stored != 16:
        return header
    values = signed_values(header)
    occurs = np.zeros(len(values), dtype=bool)
    occurs[stored] = True
    inside = values[occurs & ~padding_values(header)]
    if not inside.size:
        return header
    low, high = int(inside.min()), int(inside.max())
    needed = _bits_of(low, high) if low < 0 else high.bit_length()
    bits = next((depth for depth in DEPTHS if needed <= depth), 16)
    if bits == 16:
        return header
    return replace(header, shown=_range_of(bits, signed=low < 0))


def _range_of(bits: int, *, signed: bool) -> tuple[int, int]:
    """Return the lowest and the highest value of `bits` bits."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def _is_truncated(dataset: pydicom.Dataset, header: Header) -> bool:
    """Return whether the end of the pixel data is missing, if the transfer syntax can show it."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in NATIVE:
        return len(dataset.PixelData) < header.rows * header.columns * header.bits_allocated // 8
    if syntax == uid.RLELossless:
        return False
    try:
        stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    except Exception:  # fragments can't be separated, so a part of them is missing
        return True
    # Streams of all JPEG families end with the same marker; writers pad with either byte.
    return not stream.rstrip(b"\0\xff").endswith(b"\xff\xd9")


def signed_values(header: Header) -> np.ndarray:
    """Return the number that every stored value encodes: int32 [2 ** bits_stored].

    It is negative if pixels are signed and the highest bit is set.
    """
    values = np.arange(1 << header.bits_stored, dtype=np.int32)
    if header.signed:
        values[values >= 1 << (header.bits_stored - 1)] -= 1 << header.bits_stored
    return values


def padding_values(header: Header) -> np.ndarray:
    """Return which stored values mean "no image here": bool [2 ** bits_stored]."""
    values = signed_values(header)
    if header.padding is None:
        return np.zeros(values.shape, dtype=bool)
    first, last = header.padding
    return (values >= first) & (values <= last)


def modality_values(header: Header) -> tuple[np.ndarray, float, float]:
    """Return the modality transformation of every stored value, and its nominal range.

    The transformation is the Modality LUT or, without one, rescale slope and intercept (PS3.3
    C.11.1.1).
    """
    values = signed_values(header)
    if header.modality_lut is not None:
        return _look_up(header.modality_lut, values), 0.0, header.modality_lut.top
    header.need("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept")
    scaled = values * header.slope + header.intercept
    ends = np.array(header.shown or (values.min(), values.max())) * header.slope + header.intercept
    return scaled, float(ends.min()), float(ends.max())


def display_values(header: Header, *, voi: str = "header", voi_index: int = 0) -> np.ndarray:
    """Return the display value of every stored value: float32 [2 ** bits_stored], 0 dark, 1 bright.

    The modality transformation comes first. Then comes the VOI LUT or window with this index (`voi`
    "header"), or the full nominal range (`voi` "none", or no VOI in the header). Then MONOCHROME1
    is inverted by the nominal range, not by the values that occur. Padding becomes 0.

    Raises
    ------
    Refusal
        If the window is malformed, or there is no VOI transformation with this index.
    """
    values, low, high = modality_values(header)
    if voi != "none":
        header.need(*(("VOILUTSequence", "WindowCenter") if not header.voi_luts else ()))
    alternatives = header.voi_luts or header.windows
    if voi == "none" or not alternatives:
        shown = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)
    elif voi_index >= len(alternatives):
        raise Refusal(Reason.WINDOW)
    elif header.voi_luts:
        lut = header.voi_luts[voi_index]
        shown = _look_up(lut, values) / lut.top
    else:
        shown = _windowed(values, header.windows[voi_index], header.voi_function)
    if header.inverted:
        shown = 1.0 - shown
    shown[padding_values(header)] = 0.0
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
