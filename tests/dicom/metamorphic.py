"""Compare the reader's results for different encodings of a picture, and with the standard.

    python tests/dicom/metamorphic.py --count 20000

There are three kinds of cases, in turn. The first kind is a file and the same file in another
encoding: another transfer syntax, private elements, other lengths, orders and paddings, or inverted
or shifted pixels with a header that reverts it. Both must give the same canonical images, facts and
notices. The files are those of the phantom, pictures drawn here, and files of the pydicom wheel.

The second kind is a picture with random values of the elements that define its display (rescaling,
lookup tables, window, padding, bits, sign, photometric interpretation). Its canonical image must
equal the result of the formulas of DICOM PS3.3, which this module implements a second time, pixel
by pixel, in double precision.

The third kind has a header with a wrong or doubtful claim (side, orientation, spacing, view, bits,
padding, meaningless values). The file must be noticed or refused for exactly the reason that this
module expects.

The number of a case is its random seed, so `--first NUMBER --count 1` repeats a failure. Cases run
like those of `fuzz.py`, in child processes with limited memory and time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import Tag

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

import fuzz

from dicom_streams import encoded
from mammo_sae.cohorts.facts import read_facts
from mammo_sae.dicom.canonical import Canonical, canonical_image
from mammo_sae.dicom.pixels import read_pixels
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import ClinicalSettings, MammoClipSettings
from mammo_sae.dicom.triage import Expected, judge_header, judge_image
from mammo_sae.phantom.header import dicom_dataset
from mammo_sae.phantom.image import render
from mammo_sae.phantom.plan import plan_patient
from mammo_sae.phantom.settings import PhantomSettings

ROWS, COLUMNS = 64, 48
Random = np.random.Generator

NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
STREAMS = (
    uid.RLELossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
)


# A file before it is written.


@dataclass
class File:
    """A header without pixels, and the stored values [rows, columns] of `bits` each.

    `shift` moves the pixels up in their words, `above` is put into the bits that are then free.
    """

    header: Dataset
    stored: np.ndarray
    bits: int
    allocated: int
    signed: bool
    syntax: str = uid.ExplicitVRLittleEndian
    shift: int = 0
    above: np.ndarray | None = None
    trailing: int = 0
    fragments: int = 1
    extended: bool = False

    def write(self) -> bytes:
        """Return the file's bytes."""
        data = FileDataset(
            None,
            copied(self.header),
            preamble=b"\0" * 128,
            file_meta=FileMetaDataset(),
            is_implicit_VR=self.syntax.is_implicit_VR,
            is_little_endian=self.syntax.is_little_endian,
        )
        data.file_meta.TransferSyntaxUID = self.syntax
        data.file_meta.MediaStorageSOPClassUID = data.get("SOPClassUID", "1.2.3")
        data.file_meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID", "1.2.3.4")
        if self.syntax == uid.RLELossless and self.bits <= 8:
            self.allocated = 8  # pydicom's encoder writes one segment then, whatever is allocated
        if not self.syntax.is_little_endian:
            turn_words(data)
        data.Rows, data.Columns = self.stored.shape
        data.BitsAllocated, data.BitsStored = self.allocated, self.bits
        data.HighBit = self.bits - 1 + self.shift
        data.PixelRepresentation = int(self.signed)
        kind = f"{'i' if self.signed else 'u'}{self.allocated // 8}"
        values = np.ascontiguousarray(self.stored.astype(kind))
        if self.shift or self.above is not None:
            words = (values.view(f"u{values.itemsize}") & ((1 << self.bits) - 1)) << self.shift
            values = (words | (0 if self.above is None else self.above)).astype(words.dtype)
        if self.syntax in NATIVE or self.syntax == uid.RLELossless:
            order = "<" if self.syntax.is_little_endian else ">"
            content = values.astype(values.dtype.newbyteorder(order)).tobytes()
            data.PixelData = content + b"\0" * (self.trailing + len(content) % 2)
            # In big-endian files the bytes of words are swapped. Single bytes are not.
            data["PixelData"].VR = "OB" if self.allocated == 8 else "OW"
            if self.syntax == uid.RLELossless:
                data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
                data.PixelData = content
                data.compress(uid.RLELossless, generate_instance_uid=False)
        else:
            stream = encoded(values, self.bits, self.syntax)
            if self.extended:
                data.PixelData, offsets, lengths = encapsulate_extended([stream])
                data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = offsets, lengths
            else:
                has_table = bool(self.trailing)
                data.PixelData = encapsulate([stream], self.fragments, has_bot=has_table)
            data["PixelData"].VR = "OB"
            data["PixelData"].is_undefined_length = True
        return fuzz.written(data)


def turn_words(data: Dataset) -> None:
    """Swap the bytes of the lookup tables' words, as in a big-endian file."""
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        for item in data.get(keyword, []):
            if item["LUTData"].VR == "OW":
                item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()


@dataclass(frozen=True)
class Table:
    """A lookup table. The input `first` gives `values[0]`; the output has `bits` bits."""

    first: int
    values: np.ndarray
    bits: int

    def item(self, random: Random) -> Dataset:
        item = Dataset()
        item.add_new(
            "LUTDescriptor", "US", [len(self.values) % 65536, self.first % 65536, self.bits]
        )
        # With explicit VR, an element of numbers has room for fewer bytes than one of words.
        kind = "US" if len(self.values) < 32_000 and random.random() < 0.5 else "OW"
        words = self.values.astype("<u2")
        item.add_new("LUTData", kind, words.tolist() if kind == "US" else words.tobytes())
        return item


@dataclass(frozen=True)
class Meaning:
    """The elements of a header that define the display of values of `bits` bits."""

    bits: int
    signed: bool
    photometric: str = "MONOCHROME2"
    slope: float = 1.0
    intercept: float = 0.0
    modality: Table | None = None
    windows: tuple[tuple[float, float], ...] = ()
    function: str | None = None
    tables: tuple[Table, ...] = ()
    padding: tuple[int, int | None] | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def header(self, random: Random) -> Dataset:
        """Return the elements of the header."""
        data = plain_header()
        data.PhotometricInterpretation = self.photometric
        if (self.slope, self.intercept) != (1.0, 0.0) or random.random() < 0.5:
            data.RescaleSlope, data.RescaleIntercept = f"{self.slope:g}", f"{self.intercept:g}"
        if self.modality is not None:
            data.ModalityLUTSequence = [self.modality.item(random)]
        if self.windows:
            data.WindowCenter = [f"{center:.10g}" for center, _ in self.windows]
            data.WindowWidth = [f"{width:.10g}" for _, width in self.windows]
        if self.function is not None:
            data.VOILUTFunction = self.function
        if self.tables:
            data.VOILUTSequence = [table.item(random) for table in self.tables]
        if self.padding is not None:
            kind = "SS" if self.signed else "US"
            value, limit = self.padding
            data.add_new("PixelPaddingValue", kind, value)
            if limit is not None:
                data.add_new("PixelPaddingRangeLimit", kind, limit)
        for keyword, value in self.more.items():
            setattr(data, keyword, value)
        return data


def plain_header() -> Dataset:
    """Return the elements of every file that is drawn here."""
    data = Dataset()
    data.SOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    data.SOPInstanceUID = "2.25.11"
    data.Modality, data.SamplesPerPixel = "MG", 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Manufacturer, data.PatientAge = "ACME", "061Y"
    data.ImageLaterality, data.ViewPosition = "L", "CC"
    data.ImagerPixelSpacing = ["0.1", "0.1"]
    code = fuzz.code("399162004")
    code.ViewModifierCodeSequence = []
    data.ViewCodeSequence = [code]
    return data


# The formulas, pixel by pixel.


def looked_up(table: Table, values: np.ndarray) -> np.ndarray:
    """PS3.3 C.11.1.1.1: values below the table get its first entry, values above it the last."""
    place = np.floor(values + 0.5) - table.first
    return table.values[np.clip(place, 0, len(table.values) - 1).astype(int)].astype(float)


def table_top(table: Table) -> float:
    """The output that is displayed white: all bits set, or the largest entry if that is lower."""
    largest = float(table.values.max())
    return largest if 0 < largest < 2 ** (table.bits - 1) else 2.0**table.bits - 1


def shown_by(meaning: Meaning, stored: np.ndarray, index: int, voi: str) -> np.ndarray:
    """Return the display values of `stored` [rows, columns], 0 black to 1 white.

    PS3.3 C.11.1.1.2 (rescaling), C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2
    (LINEAR_EXACT); C.7.6.3.1.2 (MONOCHROME1 is white where values are lowest).
    """
    x = stored.astype(float)
    if meaning.modality is not None:
        y, low, high = looked_up(meaning.modality, x), 0.0, table_top(meaning.modality)
    else:
        y = meaning.slope * x + meaning.intercept
        first = -(2 ** (meaning.bits - 1)) if meaning.signed else 0
        ends = [meaning.slope * v + meaning.intercept for v in nominal(meaning, stored, first)]
        low, high = min(ends), max(ends)
    if voi == "none" or not (meaning.tables or meaning.windows):
        z = np.clip((y - low) / (high - low), 0, 1)
    elif meaning.tables:
        table = meaning.tables[index]
        z = looked_up(table, y) / table_top(table)
    else:
        c, w = meaning.windows[index]
        function = meaning.function or "LINEAR"
        if function == "SIGMOID":
            with np.errstate(over="ignore"):
                z = 1 / (1 + np.exp(-4 * (y - c) / w))
        elif function == "LINEAR_EXACT":
            z = np.select([y <= c - w / 2, y > c + w / 2], [0.0, 1.0], (y - c) / w + 0.5)
        else:
            inside = (y - (c - 0.5)) / max(w - 1, 1e-9) + 0.5
            lower, upper = c - 0.5 - (w - 1) / 2, c - 0.5 + (w - 1) / 2
            z = np.select([y <= lower, y > upper], [0.0, 1.0], inside)
    if meaning.photometric == "MONOCHROME1":
        z = 1 - z
    return np.where(is_padding(meaning, stored), 0.0, z)


def nominal(meaning: Meaning, stored: np.ndarray, first: int) -> tuple[int, int]:
    """Return the stored values that are the ends of the range without a window.

    For 16 bits, the smallest usual depth that contains the picture's values counts.
    """
    if meaning.bits < 16:
        return first, first + 2**meaning.bits - 1
    kept = stored[~is_padding(meaning, stored)]
    for bits in (8, 10, 12, 14):
        if kept.size and -(2**bits) <= kept.min() and kept.max() < 2**bits:
            return (-(2**bits) if kept.min() < 0 else 0), 2**bits - 1
    return first, first + 2**16 - 1


def is_padding(meaning: Meaning, stored: np.ndarray) -> np.ndarray:
    """PS3.3 C.7.5.1.1.2: the value, or all values from it to the limit, both included."""
    if meaning.padding is None:
        return np.zeros(stored.shape, bool)
    value, limit = meaning.padding
    ends = sorted((value, value if limit is None else limit))
    return (stored >= ends[0]) & (stored <= ends[1])


def with_believed_padding(
    meaning: Meaning, stored: np.ndarray, index: int, voi: str
) -> tuple[Meaning, bool]:
    """Return the elements without a padding value that is mainly in tissue, and if it is noticed.

    Tissue is the part that is not connected with the edge and is not black anyway.
    """
    where = is_padding(meaning, stored)
    unpadded = replace(meaning, padding=None)
    bright = shown_by(unpadded, stored, index, voi) > 0.05
    tissue = where & ~reaches_edge(where) & bright
    if 2 * tissue.sum() > where.sum():
        return unpadded, True
    return meaning, tissue.sum() > 0.0001 * where.size


def reaches_edge(where: np.ndarray) -> np.ndarray:
    """Return the part of `where` that is connected with the edge, found by spreading from there."""
    reached = where.copy()
    reached[1:-1, 1:-1] = False
    while True:
        padded = np.pad(reached, 1)
        rows, columns = where.shape
        near = np.zeros_like(where)
        for down in range(3):
            for right in range(3):
                near |= padded[down : down + rows, right : right + columns]
        spread_to = near & where
        if np.array_equal(spread_to, reached):
            return reached
        reached = spread_to


# Initial files.


@lru_cache(maxsize=1)
def phantom_pictures() -> list[tuple[Dataset, np.ndarray]]:
    """Return headers and display values [ROWS, COLUMNS] of phantom images, both sides and views."""
    part = PhantomSettings(height=ROWS, width=COLUMNS, breasts="both").part("training")
    found = []
    for number in range(4):
        patient = plan_patient(part, number)
        for side in ("L", "R"):
            view = ("CC", "MLO")[number % 2]
            image = render(part, patient, side, view)
            found.append((dicom_dataset(part, patient, side, view, image), image.display))
    return found


@lru_cache(maxsize=1)
def wheel_files() -> list[File]:
    """Return the small grey files of the pydicom wheel that the reader accepts, to be written."""
    found = []
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    for path in sorted(folder.glob("*.dcm")):
        if path.stat().st_size > 150_000:
            continue
        try:
            read_pixels(path)
            data = pydicom.dcmread(path)
            stored = data.pixel_array
        except Exception:  # not a file that the reader accepts
            continue
        if stored.size > 70_000 or int(data.get("HighBit", 0)) != data.BitsStored - 1:
            continue
        found.append(as_file(data, stored))
    assert len(found) > 8
    return found


def as_file(data: Dataset, stored: np.ndarray) -> File:
    """Return a data set with its stored values as a file to be written."""
    header = Dataset({element.tag: element for element in data if element.tag < 0x7FE00000})
    return File(
        header,
        stored.astype(np.int32),
        int(data.BitsStored),
        int(data.BitsAllocated),
        bool(data.PixelRepresentation),
    )


def drawn_file(random: Random) -> File:
    """Return an initial file."""
    draw = random.random()
    if draw < 0.25:
        one = wheel_files()[int(random.integers(len(wheel_files())))]
        return replace(one, header=copied(one.header))
    if draw < 0.5:
        pictures = phantom_pictures()
        data, _ = pictures[int(random.integers(len(pictures)))]
        return as_file(copied(data), data.pixel_array)
    meaning, stored = drawn_picture(random)
    return as_picture_file(meaning, stored, random)


def copied(header: Dataset) -> Dataset:
    """Return a copy whose elements and sequences may be changed."""
    out = Dataset()
    for tag in [*header.keys()]:
        if isinstance(header.get_item(tag), RawDataElement):
            out[tag] = header.get_item(tag)
            continue
        element = header[tag]
        if element.VR == "SQ":
            out.add_new(element.tag, "SQ", [copied(item) for item in element.value])
            out[tag].is_undefined_length = element.is_undefined_length
            for item, of in zip(out[tag].value, element.value, strict=True):
                undefined = of.is_undefined_length_sequence_item
                item.is_undefined_length_sequence_item = undefined
        else:
            out.add_new(element.tag, element.VR, element.value)
    if "file_meta" in vars(header):
        out.file_meta = header.file_meta
    if "PixelData" in header:
        out["PixelData"].is_undefined_length = header["PixelData"].is_undefined_length
    return out


def as_picture_file(meaning: Meaning, stored: np.ndarray, random: Random) -> File:
    allocated = 16 if meaning.bits > 8 or random.random() < 0.3 else 8
    return File(meaning.header(random), stored, meaning.bits, allocated, meaning.signed)


def drawn_picture(random: Random) -> tuple[Meaning, np.ndarray]:
    """Return elements that define a display, and stored values that use them."""
    bits = int(random.choice([8, 10, 12, 12, 14, 16]))
    signed = bool(random.random() < 0.3)
    lowest = -(1 << (bits - 1)) if signed else 0
    display = phantom_pictures()[int(random.integers(8))][1]
    levels = (1 << bits) - 1
    used = levels if random.random() < 0.7 else int(levels * random.uniform(0.3, 1))
    stored = np.rint(np.clip(display, 0, 1) * used).astype(np.int32)
    # One pixel has the largest value, so that the header's bits are right.
    stored[ROWS // 2, 1] = used
    stored += lowest
    if random.random() < 0.3:
        stored = (2 * lowest + levels) - stored
    meaning = Meaning(bits, signed, str(random.choice(["MONOCHROME1", "MONOCHROME2"])))
    if random.random() < 0.5:
        slope = float(random.choice([1, 2, 3, -1, 4]))
        intercept = float(random.choice([0, 100, -1024, -lowest, 7]))
        meaning = replace(meaning, slope=slope, intercept=intercept)
    ends = [meaning.slope * v + meaning.intercept for v in (lowest, lowest + levels)]
    low, high = min(ends), max(ends)
    if random.random() < 0.2:
        meaning = replace(meaning, modality=drawn_table(random, lowest, bits))
        low, high = 0.0, float((1 << meaning.modality.bits) - 1)
    kind = random.random()
    if kind < 0.5:
        count = int(random.choice([1, 1, 1, 2, 3]))
        windows = tuple(
            (
                round(float(random.uniform(low + 0.2 * (high - low), high)), 2),
                max(2.0, round(float(random.uniform(0.2, 1.2) * (high - low)), 2)),
            )
            for _ in range(count)
        )
        function = random.choice([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
        meaning = replace(meaning, windows=windows, function=function and str(function))
    elif kind < 0.75 and low >= -32768 and high < 65536:
        depth = max(4, int(high - low).bit_length())
        count = int(random.choice([1, 1, 2]))
        tables = tuple(drawn_table(random, int(low), min(depth, 16)) for _ in range(count))
        meaning = replace(meaning, tables=tables)
    if random.random() < 0.3:
        meaning = replace(meaning, padding=drawn_padding(random, stored, lowest, levels))
    return meaning, stored


def drawn_table(random: Random, low: int, bits: int) -> Table:
    """Return a rising or falling table for most of the input's range."""
    first = low + int(random.integers(0, 1 << max(1, bits - 4)))
    length = int(random.integers(max(2, 1 << (bits - 1)), (1 << bits) + 1))
    out = int(random.choice([8, 10, 12, 16]))
    power = random.uniform(0.5, 2)
    top = (1 << out) - 1
    values = np.rint((np.arange(length) / (length - 1)) ** power * top)
    if random.random() < 0.3:
        values = values[::-1]
    if random.random() < 0.2:
        values = np.rint(values / random.choice([2.5, 16]))  # fewer bits than its header gives
    return Table(first, np.ascontiguousarray(values), out)


def drawn_padding(
    random: Random, stored: np.ndarray, lowest: int, levels: int
) -> tuple[int, int | None]:
    """Return the background's value as padding, alone or as the end of a range; or a free value."""
    background = int(stored[0, -1]) if random.random() < 0.5 else int(stored[0, 0])
    dark = background < lowest + levels / 2
    if random.random() < 0.5:
        return background, None
    limit = background + (-1 if dark else 1) * int(random.integers(0, 4))
    limit = min(max(limit, lowest), lowest + levels)
    return background, limit


# The result of a file.


@dataclass
class Outcome:
    """The reader's results for a file."""

    images: list[np.ndarray | str]
    facts: Any
    coding: dict[str, Any]
    notices: frozenset[Reason]


SETTINGS = (
    ClinicalSettings(height=ROWS, width=COLUMNS),
    ClinicalSettings(height=ROWS, width=COLUMNS, voi="none"),
    MammoClipSettings(height=ROWS, width=COLUMNS),
)


def outcome_of(content: bytes, path: Path, expected: Expected) -> Outcome:
    """Read and convert a file as the steps do. A refused file gives its reason as the image."""
    path.write_bytes(content)
    facts = read_facts([path], "fuzz")[0]
    found: list[np.ndarray | str] = []
    coding: dict[str, Any] = {}
    notices: set[Reason] = set()
    for settings in SETTINGS:
        try:
            header, read = read_pixels(path)
            coding = {
                "acquisition": header.acquisition,
                "windows": len(header.windows),
                "tables": len(header.voi_luts),
                "spacing": tuple(np.nan_to_num(header.spacing_mm)),
            }
            notices.update(judge_header(header, expected, fuzz.WARN))
            canonical = canonical_image(header, read, settings)
            notices.update(judge_image(canonical, expected, fuzz.WARN))
            found += [canonical.pixels, canonical.breast, canonical.geometry.affine]
        except Refusal as refusal:
            found.append(refusal.reason.code)
    return Outcome(found, facts, coding, frozenset(notices))


# Changes that keep the meaning of a file. Each changes a file, or leaves it unchanged if it does
# not apply.


def other_syntax(file: File, random: Random) -> None:
    syntaxes = NATIVE if file.shift or file.above is not None else (*NATIVE, *STREAMS)
    file.syntax = syntaxes[int(random.integers(len(syntaxes)))]


def private_elements(file: File, random: Random) -> None:
    for group in random.choice([0x0009, 0x0019, 0x0029, 0x00E1, 0x2001, 0x5001], 2, replace=False):
        group = int(group)
        file.header.add_new((group, 0x0010), "LO", "ACME 1.0")
        kinds = (
            ("OB", random.bytes(2 * int(random.integers(0, 3000)))),
            ("UN", random.bytes(8)),
            ("DS", ["0.5", "7"]),
            ("SQ", [fuzz.code("1"), Dataset()]),
            ("UT", "a" * 5000),
            ("FD", [1.5, float("nan")]),
        )
        for number, place in enumerate(random.choice(len(kinds), 3, replace=False)):
            file.header.add_new((group, 0x1001 + number), *kinds[int(place)])


def order_in_items(file: File, random: Random) -> None:
    """Write the elements of items in a random order. A sequence then becomes raw bytes."""
    little = file.syntax.is_little_endian
    implicit = file.syntax.is_implicit_VR
    for tag in [element.tag for element in file.header if element.VR == "SQ"]:
        if file.syntax == uid.DeflatedExplicitVRLittleEndian and random.random() < 0.5:
            continue
        content = b""
        for item in file.header[tag].value:
            elements = list(item)
            random.shuffle(elements)
            buffer = DicomBytesIO()
            buffer.is_little_endian, buffer.is_implicit_VR = little, implicit
            for element in elements:
                write_data_element(buffer, element, [default_encoding])
            content += item_bytes(buffer.getvalue(), little)
        raw = RawDataElement(Tag(tag), "SQ", len(content), content, 0, implicit, little)
        file.header[tag] = raw


def item_bytes(content: bytes, little: bool) -> bytes:
    order = "little" if little else "big"
    words = ((0xFFFE, 2), (0xE000, 2), (len(content), 4))
    return b"".join(value.to_bytes(size, order) for value, size in words) + content


def undefined_lengths(file: File, random: Random) -> None:
    for element in file.header:
        if element.VR != "SQ":
            continue
        element.is_undefined_length = bool(random.random() < 0.7)
        for item in element.value:
            item.is_undefined_length_sequence_item = bool(random.random() < 0.7)


def planar_configuration(file: File, random: Random) -> None:
    file.header.PlanarConfiguration = int(random.integers(2))


def nonsense(file: File, random: Random) -> None:
    """Give meaningless values to elements that are not needed."""
    values: dict[str, tuple[str, Any]] = {
        "SmallestImagePixelValue": ("US", int(random.integers(65536))),
        "LargestImagePixelValue": ("US", int(random.integers(65536))),
        "RescaleType": ("LO", str(random.choice(["US", "HU", "OD", "LOG", "x" * 64]))),
        "PixelIntensityRelationship": ("CS", str(random.choice(["LOG", "DISP"]))),
        "WindowCenterWidthExplanation": ("LO", ["", "a\tb", "c"]),
        "KVP": ("DS", "1e3"),
        "InstanceNumber": ("IS", "-7"),
        "StudyDate": ("DA", "00000000"),
        "PatientBirthDate": ("DA", "19991399"),
        "PatientName": ("PN", "=\x1b$B=^^^^"),
        "LossyImageCompression": ("CS", "01"),
        "LossyImageCompressionRatio": ("DS", ["-1", "0"]),
        "BodyPartExamined": ("CS", "FOOT"),
        "BodyPartThickness": ("DS", "-40"),
        "ExposureInuAs": ("IS", "2147483647"),
        "NumberOfFrames": ("IS", "1"),
        "AcquisitionContextSequence": ("SQ", []),
        "ReferencedImageSequence": ("SQ", [Dataset(), fuzz.code("x" * 16)]),
        "PixelAspectRatio": ("IS", ["1", "1"]),
        "BurnedInAnnotation": ("CS", "YES"),
        "RedPaletteColorLookupTableDescriptor": ("US", [256, 0, 16]),
        "IconImageSequence": ("SQ", [icon()]),
    }
    for keyword in random.choice(list(values), 5, replace=False):
        file.header.add_new(str(keyword), *values[str(keyword)])


def icon() -> Dataset:
    """Return a small colour picture for the inside of the header."""
    data = Dataset()
    data.Rows = data.Columns = 2
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "PALETTE COLOR"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = b"\0\1\2\3"
    data["PixelData"].VR = "OB"
    return data


def numbers_written_otherwise(file: File, random: Random) -> None:
    for keyword in ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"):
        value = file.header.get(keyword)
        if value is None or value == "":
            continue
        several = list(value) if isinstance(value, list | pydicom.multival.MultiValue) else [value]
        words = [number_word(float(one), random) for one in several]
        content = "\\".join(words).encode()
        content += b" " * (len(content) % 2)
        tag = Tag(pydicom.datadict.tag_for_keyword(keyword))
        file.header[tag] = RawDataElement(tag, "DS", len(content), content, 0, False, True)


def number_word(value: float, random: Random) -> str:
    plain = f"{value:.10g}"
    for word in (
        f" {plain} ",
        f"+{plain.removeprefix('-')}",
        f"{value:.9e}",
        f"{plain}0" if "." in plain else plain,
    ):
        if random.random() < 0.4 and len(word) <= 16 and float(word) == value:
            return word
    return plain


def inverted(file: File, random: Random) -> None:
    """Invert the values, and all elements that refer to them."""
    header = file.header
    if file.bits == 16 or "ModalityLUTSequence" in header or "VOILUTSequence" in header:
        return
    total = -1 if file.signed else (1 << file.bits) - 1
    other = {"MONOCHROME1": "MONOCHROME2", "MONOCHROME2": "MONOCHROME1"}
    header.PhotometricInterpretation = other[header.PhotometricInterpretation]
    shape = {"INVERSE": "IDENTITY", "IDENTITY": "INVERSE"}
    if header.get("PresentationLUTShape") in shape:
        header.PresentationLUTShape = shape[header.PresentationLUTShape]
    file.stored = total - file.stored
    slope = float(header.get("RescaleSlope") or 1)
    intercept = float(header.get("RescaleIntercept") or 0)
    if header.get("WindowCenter"):
        linear = header.get("VOILUTFunction", "LINEAR") == "LINEAR"
        centers = np.atleast_1d(np.array(header.WindowCenter, float))
        turned = slope * total + 2 * intercept - centers + (1 if linear else 0)
        header.WindowCenter = [f"{center:.10g}" for center in turned]
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword in header:
            header[keyword].value = total - int(header[keyword].value)


def other_sign(file: File, random: Random) -> None:
    """Store the values around zero or from zero on, and adjust the rescaling."""
    header = file.header
    if "ModalityLUTSequence" in header or file.bits == 16:
        return
    move = 1 << (file.bits - 1)
    step = move if file.signed else -move
    slope = float(header.get("RescaleSlope") or 1)
    intercept = float(header.get("RescaleIntercept") or 0)
    file.stored = file.stored + step
    file.signed = not file.signed
    header.RescaleSlope, header.RescaleIntercept = (
        f"{slope:.10g}",
        f"{intercept - slope * step:.10g}",
    )
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword in header:
            value = int(header[keyword].value) + step
            header.add_new(keyword, "SS" if file.signed else "US", value)


def pixels_higher_in_words(file: File, random: Random) -> None:
    room = file.allocated - file.bits
    if room and file.syntax in NATIVE:
        file.shift = int(random.integers(1, room + 1))


def flags_above(file: File, random: Random) -> None:
    room = file.allocated - file.bits
    if room < 2 or file.syntax not in NATIVE or file.shift:
        return
    flags = np.zeros(file.stored.shape, np.uint16)
    rows, columns = flags.shape
    top, left = int(random.integers(rows // 2)), int(random.integers(columns // 2))
    flags[top : top + rows // 3, left : left + columns // 3] = 1 << (file.allocated - 1)
    file.above = flags


def wider_words(file: File, random: Random) -> None:
    file.allocated = 16


def trailing_bytes(file: File, random: Random) -> None:
    file.trailing = 2 * int(random.integers(1, 9))
    file.header.add_new((0xFFFC, 0xFFFC), "OB", b"\0" * 64)


def other_fragments(file: File, random: Random) -> None:
    file.fragments = int(random.integers(1, 4))
    file.extended = bool(random.random() < 0.3)


def padding_that_does_not_occur(file: File, random: Random) -> None:
    if "PixelPaddingValue" in file.header or file.bits == 16:
        return
    lowest = -(1 << (file.bits - 1)) if file.signed else 0
    free = np.setdiff1d(np.arange(lowest, lowest + (1 << file.bits)), file.stored)
    if len(free):
        kind = "SS" if file.signed else "US"
        file.header.add_new("PixelPaddingValue", kind, int(free[int(random.integers(len(free)))]))


def presentation_shape(file: File, random: Random) -> None:
    shape = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}
    file.header.PresentationLUTShape = shape[file.header.PhotometricInterpretation]


# The order matters: later changes write elements as bytes, which earlier ones could not read.
CHANGES: tuple[Callable[[File, Random], None], ...] = (
    inverted,
    other_sign,
    padding_that_does_not_occur,
    presentation_shape,
    planar_configuration,
    nonsense,
    private_elements,
    wider_words,
    other_syntax,
    pixels_higher_in_words,
    flags_above,
    trailing_bytes,
    other_fragments,
    numbers_written_otherwise,
    undefined_lengths,
    order_in_items,
)


def same(number: int, random: Random, path: Path) -> str:
    """Compare a file with the same file in another encoding."""
    base = drawn_file(random)
    expected = Expected("L", "CC")
    first = outcome_of(base.write(), path, expected)
    changed = replace(base, header=copied(base.header))
    chosen = sorted(random.choice(len(CHANGES), int(random.integers(1, 5)), replace=False))
    for place in chosen:
        CHANGES[int(place)](changed, random)
    names = ", ".join(CHANGES[int(place)].__name__ for place in chosen)
    second = outcome_of(changed.write(), path, expected)
    where = f"{names} ({uid.UID(changed.syntax).keyword}, {base.bits} bits)"
    assert len(first.images) == len(second.images), f"{where}: {first.images} {second.images}"
    for one, other in zip(first.images, second.images, strict=True):
        if isinstance(one, str) or isinstance(other, str):
            assert isinstance(one, str) and one == other, f"{where}: {one!s:.40} or {other!s:.40}"
        else:
            assert np.array_equal(one, other), f"{where}: other pixels, by {spread(one, other)}"
    assert first.facts == second.facts, f"{where}: other facts"
    assert first.coding == second.coding, f"{where}: {first.coding} {second.coding}"
    assert first.notices == second.notices, f"{where}: {first.notices ^ second.notices}"
    return "the same"


def spread(one: np.ndarray, other: np.ndarray) -> str:
    off = np.abs(one.astype(float) - other.astype(float))
    return f"{off.max():g} in {int((off > 0).sum())}"


def meant(number: int, random: Random, path: Path) -> str:
    """Compare a picture's canonical image with the result of the formulas."""
    meaning, stored = drawn_picture(random)
    file = as_picture_file(meaning, stored, random)
    other_syntax(file, random)
    voi = str(random.choice(["header", "none"]))
    index = int(random.integers(max(1, len(meaning.tables) or len(meaning.windows))))
    path.write_bytes(file.write())
    believed, _ = with_believed_padding(meaning, stored, index, voi)
    shown = shown_by(believed, stored, index, voi)
    settings = ClinicalSettings(height=ROWS, width=COLUMNS, voi=voi, voi_index=index)
    try:
        canonical = canonical_image(*read_pixels(path), settings)
    except Refusal as refusal:
        assert refusal.reason is Reason.BLANK and np.ptp(shown) < 1e-6, f"{refusal}: {meaning}"
        return "blank"
    check_shown(canonical, shown, meaning)
    return "as meant"


@dataclass
class Claimed:
    """A file with a claim in its header, and the expected result.

    `reasons` are the notices among those of `CLAIMS`, or the one reason of its refusal.
    """

    file: File
    reasons: frozenset[Reason] = frozenset()
    refused: bool = False
    shown: np.ndarray | None = None
    spacing: tuple[float, float] | None = None


CLAIMS = frozenset(
    {
        Reason.AMBIGUOUS,
        Reason.BITS_EXCEEDED,
        Reason.LINEAR,
        Reason.ORIENTATION,
        Reason.PADDING,
        Reason.PARTIAL_VIEW,
        Reason.SIDE,
        Reason.SIGN,
        Reason.SPACING,
        Reason.SPECIMEN,
        Reason.VIEW,
    }
)


def plain_picture(random: Random) -> tuple[Meaning, np.ndarray, str]:
    """Return a phantom picture of 12 bits without a window, and its side."""
    number = int(random.integers(8))
    stored = np.rint(np.clip(phantom_pictures()[number][1], 0, 1) * 4095).astype(np.int32)
    return Meaning(12, False), stored, "LR"[number % 2]


def claims_a_side(random: Random) -> Claimed:
    meaning, stored, _ = plain_picture(random)
    own, series = (str(word) for word in random.choice(["L", "R", ""], 2))
    described = str(random.choice(["", "L CC", "RCC", "R-MLO", "L_MLO", "LCC RCC", "Screening"]))
    more = {"ImageLaterality": own, "Laterality": series, "SeriesDescription": described}
    word = described.replace("_", "").replace("-", "").replace(" ", "")
    named = (word[0], word[1:]) if word in {"LCC", "RCC", "RMLO", "LMLO"} else ("", "CC")
    found = set()
    if len({own, series, named[0]} - {""}) > 1 or named[1] != "CC":
        found.add(Reason.AMBIGUOUS)
    if (own or series or "L") != "L":
        found.add(Reason.SIDE)
    meaning = replace(meaning, more=more)
    return Claimed(as_picture_file(meaning, stored, random), frozenset(found))


def claims_an_orientation(random: Random) -> Claimed:
    meaning, stored, side = plain_picture(random)
    rows = str(random.choice(["A", "P", "AF", "PH"]))
    columns = str(random.choice(["L", "R", "FL", "FR", "F", "HR"]))
    meaning = replace(
        meaning, more={"PatientOrientation": [rows, columns], "ImageLaterality": side}
    )
    # The breast extends away from the chest. For the left breast, rows of pixels go to the front.
    right = rows[0] == ("A" if side == "L" else "P") and columns in {
        "R" if side == "L" else "L",
        "F",
    }
    right |= rows[0] == ("A" if side == "L" else "P") and columns == ("FR" if side == "L" else "FL")
    found = set() if right else {Reason.ORIENTATION}
    if side != "L":
        found.add(Reason.SIDE)
    return Claimed(as_picture_file(meaning, stored, random), frozenset(found))


def claims_spacings(random: Random) -> Claimed:
    meaning, stored, _ = plain_picture(random)
    choices = ([], [0.07, 0.07], [0.1, 0.1], [0.05, 0.1], [0.0, 0.1], [70.0, 70.0], [0.094, 0.0941])
    in_plane, detector = (choices[int(random.integers(len(choices)))] for _ in range(2))
    factor = float(random.choice([1.0, 1.1, 1.25, 0.0]))
    more = {
        "PixelSpacing": [f"{v:g}" for v in in_plane],
        "ImagerPixelSpacing": [f"{v:g}" for v in detector],
        "EstimatedRadiographicMagnificationFactor": f"{factor:g}",
    }
    possible = [
        bool(pair) and min(pair) >= 0.02 and max(pair) <= 2 for pair in (in_plane, detector)
    ]
    spacing = (0.0, 0.0)
    if possible[0]:
        spacing = (in_plane[0], in_plane[1])
    elif possible[1]:
        spacing = tuple(v / max(factor, 1) for v in detector)
    pairs = [pair for pair in (in_plane, detector) if pair]
    odd = any(not 0.02 <= v <= 2 for pair in pairs for v in pair)
    odd |= any(abs(pair[0] / pair[1] - 1) > 0.02 for pair in pairs if pair[1])
    if len(pairs) == 2 and all(possible):
        odd |= not 0.4 < in_plane[0] / detector[0] < 1.05
    file = as_picture_file(replace(meaning, more=more), stored, random)
    return Claimed(file, frozenset({Reason.SPACING} if odd else ()), spacing=spacing)


def claims_a_view(random: Random) -> Claimed:
    meaning, stored, _ = plain_picture(random)
    found = {
        "399162004": None, "R-10242": None, "399368009": Reason.VIEW, "R-10224": Reason.VIEW,
        "399192008": Reason.VIEW, "127457009": Reason.SPECIMEN, "0": None,
    }  # fmt: skip
    modified = {
        "399055006": Reason.PARTIAL_VIEW, "R-102D6": Reason.PARTIAL_VIEW, "399197002": None,
        "399110001": Reason.PARTIAL_VIEW, "442581004": None, "": None,
    }  # fmt: skip
    view, modifier = str(random.choice(list(found))), str(random.choice(list(modified)))
    code = fuzz.code(view)
    code.ViewModifierCodeSequence = [fuzz.code(modifier)] if modifier else []
    more = {"ViewPosition": "", "ViewCodeSequence": [code]}
    file = as_picture_file(replace(meaning, more=more), stored, random)
    return Claimed(file, frozenset({found[view], modified[modifier]} - {None}))


def claims_fewer_bits(random: Random) -> Claimed:
    """Give fewer bits than there are. If a ramp continues above them, all bits are read."""
    bits = int(random.integers(10, 13))
    signed = bool(random.random() < 0.5)
    high = 1 << (bits + 1)
    shown = np.linspace(0, high - 1, ROWS * COLUMNS).astype(np.int32).reshape(COLUMNS, ROWS)
    shown = np.ascontiguousarray(shown.T)[:, ::-1] / (high - 1)
    stored = np.rint(shown * (high - 1)).astype(np.int32) - (high // 2 if signed else 0)
    file = as_picture_file(Meaning(bits, signed), stored, random)
    file.allocated = 16
    return Claimed(file, frozenset({Reason.BITS_EXCEEDED}), shown=shown)


def claims_a_sign(random: Random) -> Claimed:
    """Call pixels signed or unsigned, wrongly in half of the cases."""
    bits = int(random.integers(10, 15))
    shown = np.linspace(0, 1, ROWS * COLUMNS).reshape(COLUMNS, ROWS).T[:, ::-1]
    stored = np.rint(shown * ((1 << bits) - 1)).astype(np.int32)
    is_signed, says_signed = random.random(2) < 0.5
    stored = stored - ((1 << (bits - 1)) if is_signed else 0)
    file = as_picture_file(Meaning(bits, bool(says_signed)), stored, random)
    # Only the bits are claimed. Values above them are another claim.
    raw = stored & ((1 << bits) - 1)
    file.stored = raw - ((raw >> (bits - 1)) << bits) if says_signed else raw
    file.allocated = 16
    return Claimed(file, frozenset({Reason.SIGN} if is_signed != says_signed else ()))


def claims_padding(random: Random) -> Claimed:
    """Call a value padding that occurs in most of the breast, or next to its surroundings."""
    meaning, stored, _ = plain_picture(random)
    flat = stored > 1000
    if random.random() < 0.5:
        value = int(random.choice(np.unique(stored[flat])))
        meaning = replace(meaning, padding=(value, None))
    else:
        low = int(random.integers(1001, 3000))
        meaning = replace(meaning, padding=(low, low + int(random.integers(1, 600))))
    believed, noticed = with_believed_padding(meaning, stored, 0, "header")
    shown = shown_by(believed, stored, 0, "header")
    found = frozenset({Reason.PADDING} if noticed else ())
    return Claimed(as_picture_file(meaning, stored, random), found, shown=shown)


def claims_nonsense(random: Random) -> Claimed:
    """Give a needed element a value that can't be used."""
    meaning, stored, _ = plain_picture(random)
    wrong: tuple[tuple[dict[str, Any], Reason], ...] = (
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, Reason.HEADER),
        ({"RescaleSlope": "1", "RescaleIntercept": "1e300"}, Reason.HEADER),
        ({"WindowCenter": "100", "WindowWidth": "0"}, Reason.WINDOW),
        ({"WindowCenter": ["1", "2"], "WindowWidth": "100"}, Reason.WINDOW),
        ({"WindowCenter": "1", "WindowWidth": "2", "VOILUTFunction": "CUBE"}, Reason.WINDOW),
        ({"VOILUTSequence": [Table(0, np.arange(300), 8).item(random)]}, Reason.LUT),
        ({"ModalityLUTSequence": [Dataset()]}, Reason.LUT),
        ({"NumberOfFrames": "2"}, Reason.MULTI_FRAME),
        ({"PhotometricInterpretation": "RGB"}, Reason.COLOUR),
        ({"SamplesPerPixel": 3}, Reason.COLOUR),
    )
    more, reason = wrong[int(random.integers(len(wrong)))]
    file = as_picture_file(replace(meaning, more=more), stored, random)
    return Claimed(file, frozenset({reason}), refused=True)


def claims_raw_data(random: Random) -> Claimed:
    meaning, stored, _ = plain_picture(random)
    relation = str(random.choice(["LIN", "LOG", "DISP", ""]))
    more = {"PixelIntensityRelationship": relation, "PixelIntensityRelationshipSign": -1}
    file = as_picture_file(replace(meaning, more=more), stored, random)
    return Claimed(file, frozenset({Reason.LINEAR} if relation == "LIN" else ()))


CLAIMING = (
    claims_a_side,
    claims_an_orientation,
    claims_spacings,
    claims_a_view,
    claims_fewer_bits,
    claims_a_sign,
    claims_padding,
    claims_nonsense,
    claims_raw_data,
)


def claimed(number: int, random: Random, path: Path) -> str:
    """Compare the notices of a file that has a claim with the expected ones."""
    make = CLAIMING[int(random.integers(len(CLAIMING)))]
    claim = make(random)
    native = not claim.refused and make is not claims_fewer_bits
    if native:
        other_syntax(claim.file, random)
    path.write_bytes(claim.file.write())
    where = f"{make.__name__}: {claim.file.header!s:.1500}"
    try:
        header, read = read_pixels(path)
        notices = set(judge_header(header, Expected("L", "CC"), fuzz.WARN))
        canonical = canonical_image(header, read, SETTINGS[0])
    except Refusal as refusal:
        assert claim.refused and claim.reasons == {refusal.reason}, f"{refusal}: {where}"
        return "refused as it must be"
    assert not claim.refused, f"not refused: {where}"
    notices.update(judge_image(canonical, Expected("L", "CC"), fuzz.WARN))
    found = {reason.code for reason in notices & CLAIMS}
    expected = {reason.code for reason in claim.reasons}
    assert found == expected, f"{found}, not {expected}: {where}"
    if claim.spacing is not None:
        given = np.nan_to_num(header.spacing_mm)
        assert np.allclose(given, claim.spacing, atol=1e-6), f"{given}: {where}"
    if claim.shown is not None:
        check_shown(canonical, claim.shown, where)
    return "noticed as it must be"


def check_shown(canonical: Canonical, shown: np.ndarray, where: object) -> None:
    pixels = canonical.pixels[:, ::-1] if canonical.geometry.flipped else canonical.pixels
    off = np.abs(pixels - 255 * shown)
    assert off.max() <= 0.5 + 1e-3, f"off by {off.max():.2f} in {(off > 0.501).sum()}: {where}"


KINDS = (same, meant, claimed)


def case(number: int, path: Path) -> str:
    """Run one case."""
    random = np.random.default_rng([20261, number])
    return KINDS[number % len(KINDS)](number, random, path)


if __name__ == "__main__":
    sys.exit(fuzz.main(Path(__file__), case))
