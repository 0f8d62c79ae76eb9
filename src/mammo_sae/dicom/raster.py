"""PNG, JPEG, TIFF and NumPy files, the formats of mammograms besides DICOM.

A file's kind is decided by its first bytes, never by its name. Only the metadata that the pixels
need are read: size, sample format, orientation. Colour profiles and gamma are not applied: a grey
level is the number in the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from mammo_sae.dicom.acquisition import Acquisition
from mammo_sae.dicom.header import MOST_PIXELS, Header
from mammo_sae.dicom.reading import open_nameless
from mammo_sae.dicom.refusal import Reason, Refusal

# Pillow's warnings are about metadata, which is not read here.
warnings.filterwarnings("ignore", module=r"PIL(\.|$)")

BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x93NUMPY": "NPY",
}
"""First bytes of a file -> its kind."""
MOST_BYTES = 1 << 30
DEPTHS = (8, 10, 12, 14, 16)  # usual bits per pixel of detectors and their software
SIXTEEN_BITS = {"I;16", "I;16B", "I;16L", "I;16N"}
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT, ORIENTATION = 258, 262, 339, 274  # tags of TIFF
WHITE_IS_ZERO, UNSIGNED = 0, 1
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).T,
    8: np.rot90,
}
"""EXIF orientation -> the operation that makes an image upright; 5 to 8 swap rows and columns."""


def raster_kind(path: Path) -> str | None:
    """Return PNG, JPEG, TIFF or NPY; None for every other kind, including DICOM.

    Raises
    ------
    Refusal
        If the file is missing or can't be opened.
    """
    with _opened(path) as stream:
        start = stream.read(132)
    if start.endswith(b"DICM"):  # a DICOM preamble may look like a TIFF file
        return None
    return next((kind for prefix, kind in BEGINNINGS.items() if start.startswith(prefix)), None)


def raster_size(path: Path) -> tuple[int, int]:
    """Return rows and columns of the image in a raster file, as `read_raster` would return it.

    Raises
    ------
    Refusal
        If they can't be read.
    """
    kind = raster_kind(path)
    if kind is None:
        raise Refusal(Reason.NOT_IMAGE)
    if kind == "NPY":
        return _plane(_mapped(path)).shape[:2]
    with _opened(path) as stream, _readable(kind, stream):
        image = _open(stream)
        columns, rows = image.size
        return (columns, rows) if _orientation(image) >= 5 else (rows, columns)


def read_raster(path: Path) -> tuple[Header, np.ndarray]:
    """Read one PNG, JPEG, TIFF or NPY file.

    Returns
    -------
    Header
        The attributes of a raster file: its kind as transfer syntax, its size, the bits of a pixel.
        The nominal range of 16-bit files is the smallest of 8, 10, 12, 14 or 16 bits that holds the
        image's largest value, since many of these files hold unscaled values of 12 bits.
    numpy.ndarray
        Grey levels [rows, columns], uint8 or uint16, upright; 0 is dark. Floats between 0 and 1 are
        scaled to 16 bits.

    Raises
    ------
    Refusal
        If the file is not one grey image that can be read with certainty. The refusal holds the
        reason.
    """
    kind = raster_kind(path)
    if kind is None:
        raise Refusal(Reason.NOT_IMAGE)
    if kind == "NPY":
        pixels, bits = _whole(_grey_plane(np.array(_plane(_mapped(path)))))
    else:
        with _opened(path) as stream:
            if stream.seek(0, 2) > MOST_BYTES:
                raise Refusal(Reason.TOO_LARGE)
            stream.seek(0)
            data = BytesIO(stream.read())
        with _readable(kind, data):
            pixels, bits = _decoded(kind, data)
    return _header(kind, pixels, bits), pixels


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open_nameless(path) as stream:
            yield stream
    except FileNotFoundError:
        raise Refusal(Reason.MISSING) from None
    except OSError:
        raise Refusal(Reason.UNREADABLE) from None


@contextmanager
def _readable(kind: str, stream: BinaryIO) -> Iterator[None]:
    """Convert every error of Pillow on `stream` to a refusal."""
    try:
        yield
    except Refusal:
        raise
    except Image.DecompressionBombError:
        raise Refusal(Reason.TOO_LARGE) from None
    except Exception as error:  # Pillow raises many kinds of errors for the same fault
        reason = Reason.TRUNCATED if _is_cut_off(kind, stream) else Reason.DECODE
        raise Refusal(reason, type(error).__name__) from None


def _is_cut_off(kind: str, stream: BinaryIO) -> bool:
    """Return whether a PNG or JPEG file lacks its end marker. Other kinds have no end marker."""
    length = stream.seek(0, 2)
    stream.seek(max(0, length - 64))
    end = stream.read()
    if kind == "PNG":
        return b"IEND" not in end
    return kind == "JPEG" and not end.rstrip(b"\0").endswith(b"\xff\xd9")


def _open(stream: BinaryIO) -> Image.Image:
    stream.seek(0)
    image = Image.open(stream, formats=("PNG", "JPEG", "TIFF"))
    if image.width * image.height > MOST_PIXELS:
        raise Refusal(Reason.TOO_LARGE)
    return image


def _decoded(kind: str, data: BytesIO) -> tuple[np.ndarray, int]:
    image = _open(data)
    if kind == "PNG":
        image.verify()  # compares checksums; decoding does not
        image = _open(data)
    if getattr(image, "n_frames", 1) > 1:
        raise Refusal(Reason.MULTI_FRAME)
    tags = image.tag_v2 if kind == "TIFF" else {}  # type: ignore[attr-defined]
    depth = {"PNG": data.getvalue()[24], "JPEG": 8}.get(kind) or max(tags[BITS_PER_SAMPLE])
    if image.mode == "1" or (depth > 8 and image.mode not in {*SIXTEEN_BITS, "I", "F"}):
        # Pillow would reduce deeper samples of several channels to 8 bits.
        raise Refusal(Reason.BITS)
    if depth <= 8 and set(tags.get(SAMPLE_FORMAT, ())) - {UNSIGNED}:
        raise Refusal(Reason.BITS)  # Pillow would read signed bytes as unsigned
    orientation = _orientation(image)
    pixels, bits = _whole(_grey(image))
    if depth > 8 and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts only 8 bits
        pixels = pixels.dtype.type((1 << bits) - 1) - pixels
    return np.ascontiguousarray(UPRIGHT.get(orientation, np.asarray)(pixels)), bits


def _orientation(image: Image.Image) -> int:
    """Return the orientation as EXIF's number; 1 is upright."""
    if image.format == "TIFF":  # Pillow turns TIFF images upright
        return 1
    # EXIF data after the pixels are ignored, since they can be read only by decoding the pixels.
    return Image.Image.getexif(image).get(ORIENTATION, 1)


def _grey(image: Image.Image) -> np.ndarray:
    """Return one value per pixel of an image without colours; channels must be equal."""
    if image.mode in {"I", "F"}:
        return np.asarray(image)
    clear = image.info.get("transparency")
    if image.mode in {"L", *SIXTEEN_BITS}:
        pixels = np.asarray(image)
        if clear is not None and (pixels == clear).any():
            raise Refusal(Reason.COLOUR)
        return pixels
    if image.mode not in {"LA", "P", "PA", "RGB", "RGBA", "RGBX"}:
        raise Refusal(Reason.COLOUR)
    if image.mode == "RGB" and clear is None:
        return _grey_plane(np.asarray(image))
    colours = np.asarray(image.convert("RGBA"))
    if (colours[..., 3] != 255).any():
        raise Refusal(Reason.COLOUR)
    return _grey_plane(colours[..., :3])


def _mapped(path: Path) -> np.ndarray:
    """Return the array of an NPY file, memory-mapped; no code in the file is run."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise Refusal(Reason.MISSING) from None
    except OSError:
        raise Refusal(Reason.UNREADABLE) from None
    except Exception as error:  # a malformed header, or a wrong length
        cut = "file size" in str(error) or "EOF" in str(error)
        raise Refusal(Reason.TRUNCATED if cut else Reason.DECODE, type(error).__name__) from None


def _plane(array: np.ndarray) -> np.ndarray:
    """Return the array as [rows, columns] or [rows, columns, 3]."""
    if array.size > 3 * MOST_PIXELS:
        raise Refusal(Reason.TOO_LARGE)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim == 3 and array.shape[2] in {3, 4}:
        return array
    if array.ndim != 2:
        raise Refusal(Reason.MULTI_FRAME)
    return array


def _grey_plane(pixels: np.ndarray) -> np.ndarray:
    """Return [rows, columns] of [rows, columns] or of three equal channels."""
    if pixels.ndim == 2:
        return pixels
    first = pixels[..., 0]
    if pixels.shape[2] != 3 or any((pixels[..., n] != first).any() for n in (1, 2)):
        raise Refusal(Reason.COLOUR)
    return first


def _whole(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return grey levels as uint8 or uint16, and the bits of their nominal range."""
    if not values.size:
        raise Refusal(Reason.NO_PIXELS)
    if values.dtype.kind not in "iuf":
        raise Refusal(Reason.BITS)
    least, most = values.min(), values.max()
    if not (np.isfinite(least) and np.isfinite(most) and least >= 0):
        raise Refusal(Reason.BITS)
    if values.dtype.kind == "f" and most <= 1:
        return np.rint(values * 65535.0).astype(np.uint16), 16
    if most > 65535 or (values.dtype.kind == "f" and (values != np.rint(values)).any()):
        raise Refusal(Reason.BITS)
    if values.dtype == np.uint8:
        return values, 8
    return values.astype(np.uint16), next(bits for bits in DEPTHS if most < 1 << bits)


def _header(kind: str, pixels: np.ndarray, bits: int) -> Header:
    return Header(
        syntax=kind,
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        bits_allocated=8 * pixels.dtype.itemsize,
        bits_stored=bits,
        high_bit=bits - 1,
        signed=False,
        photometric="",
        inverted=False,
        slope=1.0,
        intercept=0.0,
        modality_lut=None,
        voi_function="LINEAR",
        windows=(),
        voi_luts=(),
        contradictory=False,
        padding=None,
        spacing_mm=(float("nan"), float("nan")),
        acquisition=Acquisition(
            uid="",
            modality=None,
            for_processing=False,
            tomosynthesis=False,
            side=None,
            view=None,
            partial=False,
            implant=False,
            implant_displaced=False,
        ),
    )
