"""Reads only allow-listed elements of a DICOM header, so that no others can reach a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from mammo_sae.dicom import acquisition
from mammo_sae.dicom.acquisition import Acquisition, read_acquisition
from mammo_sae.dicom.elements import Elements
from mammo_sae.dicom.refusal import Reason, Refusal

READ = (
    *acquisition.READ,
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "HighBit",
    "ImagerPixelSpacing",
    "ModalityLUTSequence",
    "NominalScannedPixelSpacing",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelAspectRatio",
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

MOST_SIDE = 65535  # pixels
MOST_PIXELS = 100_000_000  # digitised film has up to 40 million; more is a decompression bomb
LEAST_SPACING, MOST_SPACING = 0.02, 2.0  # mm; detectors have 0.05 to 0.1, reduced images more


@dataclass(frozen=True)
class Lut:
    """A lookup table of the header: input `first + i` gives `values[i]`; the ends are extended."""

    first: int
    values: np.ndarray
    bits: int

    @property
    def top(self) -> float:
        """Return the brightest output: 2 ** bits - 1, or the largest value if it has fewer bits."""
        largest, nominal = float(self.values.max()), 2.0**self.bits - 1
        return largest if 0 < largest < 2.0 ** (self.bits - 1) else nominal


@dataclass(frozen=True)
class Window:
    """One VOI window: centre and width in output units of the modality transformation."""

    center: float
    width: float


@dataclass(frozen=True)
class Header:
    """The image attributes of one file, checked and typed.

    `spacing_mm` is the (row, column) spacing that the function `spacing_mm` returns.
    `contradictory` is True if PresentationLUTShape and the photometric interpretation disagree.
    `syntax` is the keyword of the transfer syntax, empty if DICOM does not define it. `refused`
    holds elements that can't be used; an error is raised only if one of them is needed. `notices`
    are peculiarities of the file with which it can still be read. `shown` is the range of stored
    values that the pixels use, if it is narrower than their bits allow. `padding` is the inclusive
    range of stored padding values, or None.
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
    refused: Mapping[str, Reason] = field(default_factory=dict)
    notices: frozenset[Reason] = frozenset()
    shown: tuple[int, int] | None = None

    def need(self, *keywords: str) -> None:
        """Raise the Refusal of the first of these elements that could not be read."""
        for keyword in keywords:
            if keyword in self.refused:
                raise Refusal(self.refused[keyword], keyword)


def read_header(dataset: Dataset) -> Header:
    """Read the allow-listed attributes of `dataset`.

    Raises
    ------
    Refusal
        If an attribute that every conversion needs is missing or malformed, or the image is of an
        unsupported kind.
    """
    try:
        return _read(dataset)
    except Refusal:
        raise
    except Exception as error:  # elements are parsed when they are read
        raise Refusal(Reason.HEADER, type(error).__name__) from None


def _read(dataset: Dataset) -> Header:
    elements = Elements(dataset)
    if not dataset.get("PixelData"):
        raise Refusal(Reason.NO_PIXELS)
    if _whole(elements, "NumberOfFrames", 1) > 1:
        raise Refusal(Reason.MULTI_FRAME)
    photometric = elements.text("PhotometricInterpretation")
    if _whole(elements, "SamplesPerPixel", 1) != 1 or photometric not in {
        "MONOCHROME1",
        "MONOCHROME2",
    }:
        raise Refusal(Reason.COLOUR)

    allocated = _whole(elements, "BitsAllocated")
    stored = _whole(elements, "BitsStored")
    high = _whole(elements, "HighBit", stored - 1)
    if allocated not in {8, 16} or not 1 <= stored <= high + 1 <= allocated:
        raise Refusal(Reason.BITS)
    representation = _whole(elements, "PixelRepresentation")
    if representation not in {0, 1}:
        raise Refusal(Reason.HEADER, "PixelRepresentation")
    signed = representation == 1
    refused: dict[str, Reason] = {}
    slope, intercept = _rescaling(elements, refused)
    modality_luts = _luts(elements, "ModalityLUTSequence", refused, negative=signed)
    first = -(1 << (stored - 1)) if signed else 0
    lowest = min(first * slope, (first + (1 << stored) - 1) * slope) + intercept
    voi_luts = _luts(elements, "VOILUTSequence", refused, negative=not modality_luts and lowest < 0)
    windows = _windows(elements, refused)
    padding = _padding(elements, stored, signed)
    spacing = spacing_mm(elements)
    syntax = dataset.file_meta.get("TransferSyntaxUID") if "file_meta" in vars(dataset) else None
    acquisition = read_acquisition(elements)
    notices = {
        Reason.MALFORMED: bool(refused or elements.malformed),
        Reason.DECIMAL_COMMA: bool(elements.commas),
        Reason.BITS_UNUSED: any(lut.top < 2.0**lut.bits - 1 for lut in (*modality_luts, *voi_luts)),
        Reason.SPACING: spacing_is_odd(elements),
    }
    rows, columns = _side(elements, "Rows"), _side(elements, "Columns")
    if rows * columns > MOST_PIXELS:
        raise Refusal(Reason.TOO_LARGE)
    return Header(
        syntax=UID(str(syntax)).keyword if syntax else "",
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high,
        signed=signed,
        photometric=photometric,
        # PresentationLUTShape INVERSE repeats the meaning of MONOCHROME1.
        inverted=photometric == "MONOCHROME1",
        slope=slope,
        intercept=intercept,
        modality_lut=modality_luts[0] if modality_luts else None,
        voi_function=elements.text("VOILUTFunction") or "LINEAR",
        windows=windows,
        voi_luts=voi_luts,
        padding=padding,
        contradictory=elements.text("PresentationLUTShape")
        == {"MONOCHROME1": "IDENTITY", "MONOCHROME2": "INVERSE"}[photometric],
        spacing_mm=spacing,
        acquisition=acquisition,
        refused=refused,
        notices=frozenset(reason for reason, found in notices.items() if found),
    )


def _whole(elements: Elements, keyword: str, default: int | None = None) -> int:
    value = elements.number(keyword)
    if value is None and default is not None and keyword not in elements.malformed:
        return default
    if value is None or not np.isfinite(value) or value != int(value):
        raise Refusal(Reason.HEADER, keyword)
    return int(value)


def _side(elements: Elements, keyword: str) -> int:
    pixels = _whole(elements, keyword)
    if not 1 <= pixels <= MOST_SIDE:
        raise Refusal(Reason.HEADER, keyword)
    return pixels


def _rescaling(elements: Elements, refused: dict[str, Reason]) -> tuple[float, float]:
    slope, intercept = (elements.number(name) for name in ("RescaleSlope", "RescaleIntercept"))
    slope = 1.0 if slope is None else slope
    intercept = 0.0 if intercept is None else intercept
    if "RescaleSlope" in elements.malformed or not np.isfinite(slope) or slope == 0:
        refused["RescaleSlope"] = Reason.HEADER
        slope = 1.0
    with np.errstate(over="ignore"):
        # Grey values are computed in single precision.
        finite = np.isfinite(np.float32(abs(slope) * (1 << 16) + abs(intercept)))
    if "RescaleIntercept" in elements.malformed or not finite:
        refused["RescaleIntercept"] = Reason.HEADER
        slope, intercept = 1.0, 0.0
    return slope, intercept


def _windows(elements: Elements, refused: dict[str, Reason]) -> tuple[Window, ...]:
    centers, widths = elements.numbers("WindowCenter"), elements.numbers("WindowWidth")
    if (
        {"WindowCenter", "WindowWidth"} & elements.malformed
        or len(centers) != len(widths)
        or not np.isfinite([*centers, *widths]).all()
    ):
        refused["WindowCenter"] = Reason.WINDOW
        return ()
    return tuple(Window(center, width) for center, width in zip(centers, widths, strict=True))


def _luts(
    elements: Elements, keyword: str, refused: dict[str, Reason], *, negative: bool
) -> tuple[Lut, ...]:
    try:
        found = tuple(_lut(item, elements.dataset, negative) for item in elements.items(keyword))
    except Refusal as refusal:
        refused[keyword] = refusal.reason
        return ()
    if keyword in elements.malformed:
        refused[keyword] = Reason.LUT
    return found


def _lut(item: Dataset, dataset: Dataset, negative: bool) -> Lut:
    """Read one lookup table (PS3.3 C.11.1.1 and C.11.2.1.1)."""
    try:
        entries, first, bits = (int(value) for value in item.LUTDescriptor)
        data = item.LUTData
    except Exception:  # elements are parsed when they are read
        raise Refusal(Reason.LUT) from None
    # The first value is unsigned, but a file without a VR can make it look signed.
    entries = entries % (1 << 16) or 1 << 16
    # The descriptor's second value is signed if the table's input is. In some encodings the element
    # alone does not show which.
    if negative and first >= 1 << 15:
        first -= 1 << 16
    elif not negative and first < 0:
        first += 1 << 16
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


def _padding(elements: Elements, bits: int, signed: bool) -> tuple[int, int] | None:
    values = [elements.number(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if values[0] is None or not np.isfinite(values[0]):
        return None
    last = values[0] if values[1] is None or not np.isfinite(values[1]) else values[1]
    ends = [_as_stored(int(value), bits, signed) for value in (values[0], last)]
    return min(ends), max(ends)


def _as_stored(value: int, bits: int, signed: bool) -> int:
    """Return a padding value as the pixels store it, whatever its VR and width in the header."""
    if not signed:
        return value & 0xFFFF
    if value >= 1 << 15:
        return value - (1 << 16)
    return value - (1 << bits) if value >= 1 << (bits - 1) else value


def spacing_mm(elements: Elements) -> tuple[float, float]:
    """Return mm per pixel (row, column).

    The value is PixelSpacing, or else the detector's spacing divided by the magnification, or else
    the spacing of the film scanner. NaN if the header gives none of them, or an impossible value.
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        values = elements.numbers(keyword)
        if len(values) == 2 and _is_spacing(values):
            factor = 1.0
            if keyword == "ImagerPixelSpacing":
                factor = elements.number("EstimatedRadiographicMagnificationFactor") or 1.0
                factor = factor if 1 <= factor < 10 else 1.0
            return values[0] / factor, values[1] / factor
    return float("nan"), float("nan")


def spacing_is_odd(elements: Elements) -> bool:
    """Return whether spacings are impossible, unequal, or contradict each other.

    They contradict each other if the spacing in the breast is larger than the detector's, or less
    than 0.4 of it. Images are not stretched, so lengths in mm are wrong if pixels are not square.
    """
    in_plane, detector = (elements.numbers(k) for k in ("PixelSpacing", "ImagerPixelSpacing"))
    given = [values for values in (in_plane, detector) if values]
    if any(len(values) != 2 or not _is_spacing(values) for values in given):
        return True
    ratio = elements.numbers("PixelAspectRatio")
    pairs = [*given, *([ratio] if len(ratio) == 2 else [])]
    if any(abs(vertical - horizontal) > 0.01 * abs(vertical) for vertical, horizontal in pairs):
        return True
    return len(given) == 2 and not 0.4 < in_plane[0] / detector[0] < 1.05


def _is_spacing(values: list[float]) -> bool:
    return all(LEAST_SPACING <= value <= MOST_SPACING for value in values)
