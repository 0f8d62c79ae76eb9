"""What is read from a DICOM header: an allow-list, so that nothing else can leave it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from mammo_sae.dicom import acquisition
from mammo_sae.dicom.acquisition import Acquisition, read_acquisition
from mammo_sae.dicom.refusal import Reason, Refusal

READ = (
    *acquisition.READ,
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "HighBit",
    "ImagerPixelSpacing",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelData",
    "PixelPaddingRangeLimit",
    "PixelPaddingValue",
    "PixelRepresentation",
    "PixelSpacing",
    "PresentationLUTShape",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SamplesPerPixel",
    "VOILUTFunction",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
)
"""Keywords of the only elements that are parsed from a file."""


@dataclass(frozen=True)
class Lut:
    """A lookup table of the header: input `first + i` gives `values[i]`, ends extended."""

    first: int
    values: np.ndarray
    bits: int


@dataclass(frozen=True)
class Window:
    """One VOI window: centre and width in output units of the modality transformation."""

    center: float
    width: float


@dataclass(frozen=True)
class Header:
    """The image attributes of one file, checked and typed.

    `spacing_mm` is (row, column) spacing in the breast plane's own attribute, or NaN.
    `contradictory` says that PresentationLUTShape and the photometric interpretation disagree.
    `syntax` is the keyword of the transfer syntax, empty if it is none of DICOM's own.
    `padding` is the inclusive range of stored values that are no image, or None.
    """

    syntax: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    inverted: bool
    slope: float
    intercept: float
    modality_lut: Lut | None
    voi_function: str
    windows: tuple[Window, ...]
    voi_luts: tuple[Lut, ...]
    contradictory: bool
    padding: tuple[int, int] | None
    spacing_mm: tuple[float, float]
    acquisition: Acquisition


def read_header(dataset: Dataset) -> Header:
    """Read the allow-listed attributes of `dataset`.

    Raises
    ------
    Refusal
        If an attribute is missing or malformed, or the image is of a kind that is not converted.
    """
    if not dataset.get("PixelData"):
        raise Refusal(Reason.NO_PIXELS)
    if _number(dataset, "NumberOfFrames", int, 1) > 1:
        raise Refusal(Reason.MULTI_FRAME)
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if _number(dataset, "SamplesPerPixel", int, 1) != 1 or photometric not in {
        "MONOCHROME1",
        "MONOCHROME2",
    }:
        raise Refusal(Reason.COLOUR)

    allocated = _number(dataset, "BitsAllocated", int)
    stored = _number(dataset, "BitsStored", int)
    high = _number(dataset, "HighBit", int, stored - 1)
    if allocated not in {8, 16} or not 1 <= stored <= high + 1 <= allocated:
        raise Refusal(Reason.BITS)
    signed = _number(dataset, "PixelRepresentation", int, 0) == 1
    slope = _number(dataset, "RescaleSlope", float, 1.0)
    if not np.isfinite(slope) or slope == 0:
        raise Refusal(Reason.HEADER, "RescaleSlope")
    intercept = _number(dataset, "RescaleIntercept", float, 0.0)
    with np.errstate(over="ignore"):
        # Grey values are computed in single precision.
        if not np.isfinite(np.float32(abs(slope) * (1 << 16) + abs(intercept))):
            raise Refusal(Reason.HEADER, "RescaleIntercept")
    modality_luts = _luts(dataset, "ModalityLUTSequence", negative=signed)
    first = -(1 << (stored - 1)) if signed else 0
    lowest = min(first * slope, (first + (1 << stored) - 1) * slope) + intercept
    syntax = dataset.file_meta.get("TransferSyntaxUID") if "file_meta" in vars(dataset) else None
    return Header(
        syntax=UID(str(syntax)).keyword if syntax else "",
        rows=_number(dataset, "Rows", int),
        columns=_number(dataset, "Columns", int),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high,
        signed=signed,
        photometric=photometric,
        # PresentationLUTShape INVERSE says the same thing as MONOCHROME1 a second time.
        inverted=photometric == "MONOCHROME1",
        slope=slope,
        intercept=intercept,
        modality_lut=modality_luts[0] if modality_luts else None,
        voi_function=str(dataset.get("VOILUTFunction", "") or "LINEAR"),
        windows=_windows(dataset),
        voi_luts=_luts(dataset, "VOILUTSequence", negative=not modality_luts and lowest < 0),
        padding=_padding(dataset, stored, signed),
        contradictory=str(dataset.get("PresentationLUTShape", ""))
        == {"MONOCHROME1": "IDENTITY", "MONOCHROME2": "INVERSE"}[photometric],
        spacing_mm=spacing_mm(dataset),
        acquisition=read_acquisition(dataset),
    )


def _number(dataset: Dataset, keyword: str, kind: Callable[[Any], Any], default: Any = None) -> Any:
    value = dataset.get(keyword)
    if value is None or value == "":
        if default is None:
            raise Refusal(Reason.HEADER, keyword)
        return default
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        raise Refusal(Reason.HEADER, keyword) from None


def _numbers(dataset: Dataset, keyword: str) -> list[float]:
    value = dataset.get(keyword)
    if value is None or value == "":
        return []
    try:
        return [float(item) for item in (value if np.iterable(value) else [value])]
    except (TypeError, ValueError):
        raise Refusal(Reason.HEADER, keyword) from None


def _windows(dataset: Dataset) -> tuple[Window, ...]:
    centers, widths = _numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth")
    if len(centers) != len(widths) or not np.isfinite([*centers, *widths]).all():
        raise Refusal(Reason.WINDOW)
    return tuple(Window(center, width) for center, width in zip(centers, widths, strict=True))


def _luts(dataset: Dataset, keyword: str, *, negative: bool) -> tuple[Lut, ...]:
    return tuple(_lut(item, dataset, negative) for item in dataset.get(keyword) or ())


def _lut(item: Dataset, dataset: Dataset, negative: bool) -> Lut:
    """Read one lookup table (PS3.3 C.11.1.1 and C.11.2.1.1)."""
    try:
        entries, first, bits = (int(value) for value in item.LUTDescriptor)
        data = item.LUTData
    except (AttributeError, TypeError, ValueError):
        raise Refusal(Reason.LUT) from None
    entries = entries or 1 << 16
    # The descriptor's second value is signed when the table's input is; some files are encoded
    # so that it can't be told from the element itself.
    if negative and first >= 1 << 15:
        first -= 1 << 16
    if isinstance(data, bytes | bytearray):
        order = "<" if dataset.original_encoding[1] else ">"
        packed = len(data) in {entries, entries + 1} and bits <= 8
        values = np.frombuffer(bytes(data), dtype="u1" if packed else f"{order}u2")
    else:
        values = np.atleast_1d(np.asarray(data))
    values = values[:entries].astype(np.float64)
    if not 1 <= bits <= 16 or len(values) != entries or values.max() > (1 << bits) - 1:
        raise Refusal(Reason.LUT)
    return Lut(first=first, values=values, bits=bits)


def _padding(dataset: Dataset, bits: int, signed: bool) -> tuple[int, int] | None:
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    first = _number(dataset, "PixelPaddingValue", int)
    last = _number(dataset, "PixelPaddingRangeLimit", int, first)
    if signed:
        first, last = (_signed(v) for v in (first, last))
    return min(first, last), max(first, last)


def _signed(value: int) -> int:
    """Return a 16-bit value as signed, whichever way the element's VR was read."""
    return value - (1 << 16) if value >= 1 << 15 else value


def spacing_mm(dataset: Dataset) -> tuple[float, float]:
    """Return mm per pixel (row, column): PixelSpacing, else at the detector over magnification.

    NaN where the header does not say.

    Raises
    ------
    Refusal
        If what it says is not a number.
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        values = _numbers(dataset, keyword)
        if len(values) == 2 and min(values) > 0:
            factor = 1.0
            if keyword == "ImagerPixelSpacing":
                factor = _number(dataset, "EstimatedRadiographicMagnificationFactor", float, 1.0)
                factor = factor if factor > 0 else 1.0
            return values[0] / factor, values[1] / factor
    return float("nan"), float("nan")
