"""PNG, JPEG, TIFF and NPY files: each kind of content gives a value or a reason."""

from __future__ import annotations

import io
import pickle
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from mammo_sae.dicom.files import read_image, why_unreadable
from mammo_sae.dicom.raster import raster_kind, raster_size
from mammo_sae.dicom.refusal import Reason, Refusal

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (40, 30), dtype=np.uint8)
BYTES[0, 0] = 255
WORDS = RNG.integers(0, 4096, (40, 30), dtype=np.uint16)
WORDS[0, 0] = 4095


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content)
    )  # fmt: skip


def png(pixels: np.ndarray, *, colour: int = 0, more: bytes = b"") -> bytes:
    """A PNG by the standard: `colour` is its colour type, `more` are further chunks."""
    return _png(pixels.shape, 8 * pixels.itemsize, _lines(pixels), colour=colour, more=more)


def interlaced(pixels: np.ndarray) -> bytes:
    """A PNG whose rows are in the standard's seven passes."""
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    passes = [pixels[top::down, left::right] for top, left, down, right in starts] + [pixels[1::2]]
    lines = b"".join(_lines(part) for part in passes)
    return _png(pixels.shape, 8 * pixels.itemsize, lines, interlace=1)


def half_bytes(pixels: np.ndarray) -> bytes:
    """A PNG with 4 bits per pixel."""
    return _png(pixels.shape, 4, _lines(pixels[:, ::2] << 4 | pixels[:, 1::2]))


def _lines(pixels: np.ndarray) -> bytes:
    big = pixels.astype(pixels.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in big)


def _png(
    shape: tuple[int, ...],
    depth: int,
    lines: bytes,
    *,
    colour: int = 0,
    interlace: int = 0,
    more: bytes = b"",
) -> bytes:
    head = struct.pack(">IIBBBBB", shape[1], shape[0], depth, colour, 0, 0, interlace)
    chunks = chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def tiff(pixels: np.ndarray, *, order: str = "<", **tags: int) -> bytes:
    """An uncompressed TIFF of one strip; `tags` are named as in `codes`."""
    codes = {"samples": 277, "photometric": 262, "format": 339, "bits": 258}
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    fields = {256: pixels.shape[1], 257: pixels.shape[0], 258: 8 * pixels.itemsize, 259: 1}
    fields |= {262: 1, 273: 8, 277: samples, 278: pixels.shape[0], 279: len(data)}
    fields |= {codes[name]: value for name, value in tags.items()}
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(fields.items())
    )
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(data))
    return start + data + struct.pack(f"{order}H", len(fields)) + entries + b"\0\0\0\0"


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=2)


def with_alpha(pixels: np.ndarray, alpha: int) -> np.ndarray:
    return np.stack([pixels, np.full_like(pixels, alpha)], axis=2)


def palette(colours: np.ndarray) -> bytes:
    more = chunk(b"PLTE", colours.astype(np.uint8).tobytes())
    return png(BYTES, colour=3, more=more)


SIXTEEN = WORDS * np.uint16(16)
GREYS = np.repeat(np.arange(256)[:, None], 3, axis=1)
JPEG = saved(Image.fromarray(BYTES), "JPEG", quality=95)
DECODED_JPEG = imagecodecs.jpeg_decode(JPEG)
GREY_JPEG = saved(Image.fromarray(grey(BYTES)), "JPEG", quality=95)
DECODED_GREY_JPEG = imagecodecs.jpeg_decode(GREY_JPEG)[..., 0]
VALUES = {
    "png, 8 bits": (png(BYTES), BYTES, 8),
    "png, 12 of 16 bits": (png(WORDS), WORDS, 12),
    "png, 16 bits": (png(SIXTEEN), SIXTEEN, 16),
    "png, interlaced": (interlaced(WORDS), WORDS, 12),
    "png, 4 bits": (half_bytes(BYTES >> 4), (BYTES >> 4) * np.uint8(17), 8),
    "png, three equal channels": (png(grey(BYTES), colour=2), BYTES, 8),
    "png, opaque": (png(with_alpha(BYTES, 255), colour=4), BYTES, 8),
    "png, a palette of greys": (palette(GREYS), BYTES, 8),
    "png, a transparent grey that does not occur": (
        png(WORDS, more=chunk(b"tRNS", struct.pack(">H", 4097))),
        WORDS,
        12,
    ),
    "png, gamma and a colour profile": (
        png(
            BYTES,
            more=chunk(b"gAMA", struct.pack(">I", 100000))
            + chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"not a profile")),
        ),
        BYTES,
        8,
    ),
    "jpeg": (JPEG, DECODED_JPEG, 8),
    "jpeg, three equal channels": (GREY_JPEG, DECODED_GREY_JPEG, 8),
    "tiff, 8 bits": (tiff(BYTES), BYTES, 8),
    "tiff, 12 of 16 bits": (tiff(WORDS), WORDS, 12),
    "tiff, big-endian": (tiff(WORDS, order=">"), WORDS, 12),
    "tiff, 8 bits, white is 0": (tiff(BYTES, photometric=0), 255 - BYTES, 8),
    "tiff, 16 bits, white is 0": (tiff(WORDS, photometric=0), 4095 - WORDS, 12),
    "tiff, three equal channels": (tiff(grey(BYTES), photometric=2), BYTES, 8),
    "tiff, signed without negative values": (tiff(WORDS.astype(np.int16), format=2), WORDS, 12),
    "tiff, floats from 0 to 1": (
        tiff(np.float32(WORDS / 4095), format=3),
        np.rint(WORDS / 4095 * 65535).astype(np.uint16),
        16,
    ),
    "npy, 8 bits": (npy(BYTES), BYTES, 8),
    "npy, 12 of 16 bits": (npy(WORDS), WORDS, 12),
    "npy, big-endian": (npy(WORDS.astype(">u2")), WORDS, 12),
    "npy, by columns": (npy(np.asfortranarray(WORDS)), WORDS, 12),
    "npy, one frame": (npy(WORDS[None]), WORDS, 12),
    "npy, one channel": (npy(WORDS[..., None]), WORDS, 12),
    "npy, three equal channels": (npy(grey(BYTES)), BYTES, 8),
    "npy, floats that are whole": (npy(WORDS.astype(np.float64)), WORDS, 12),
    "npy, floats from 0 to 1": (
        npy(WORDS / 4095),
        np.rint(WORDS / 4095 * 65535).astype(np.uint16),
        16,
    ),
    "npy, signed without negative values": (npy(WORDS.astype(np.int32)), WORDS, 12),
}


@pytest.mark.parametrize("name", VALUES)
def test_grey_levels_are_the_numbers_in_the_file(tmp_path, name):
    content, expected, bits = VALUES[name]
    path = tmp_path / "image"
    path.write_bytes(content)
    header, pixels = read_image(path)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == expected.dtype
    assert (header.bits_stored, header.high_bit) == (bits, bits - 1)
    assert header.bits_allocated == 8 * expected.dtype.itemsize
    assert (header.rows, header.columns) == raster_size(path) == expected.shape
    assert header.syntax == raster_kind(path) == name.split(",")[0].upper()


def truncated_tail(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


COLOURED = BYTES[..., None] + np.arange(3, dtype=np.uint8)
FRAMES = [Image.fromarray(BYTES), Image.fromarray(BYTES[::-1].copy())]
REASONS = {
    "png, colour": (png(COLOURED, colour=2), Reason.COLOUR),
    "png, partly transparent": (png(with_alpha(BYTES, 254), colour=4), Reason.COLOUR),
    "png, a transparent grey that occurs": (
        png(WORDS, more=chunk(b"tRNS", struct.pack(">H", 4095))),
        Reason.COLOUR,
    ),
    "png, a palette of colours": (palette(np.maximum(GREYS, [0, 0, 1])), Reason.COLOUR),
    "png, a palette with a transparent entry": (
        png(
            BYTES,
            colour=3,
            more=chunk(b"PLTE", GREYS.astype(np.uint8).tobytes()) + chunk(b"tRNS", bytes(256)),
        ),
        Reason.COLOUR,
    ),
    "png, 1 bit": (saved(Image.fromarray(BYTES > 99), "PNG"), Reason.BITS),
    "png, three channels of 16 bits": (png(grey(WORDS), colour=2), Reason.BITS),
    "png, 16 bits and transparency": (png(with_alpha(WORDS, 65535), colour=4), Reason.BITS),
    "png, several frames": (
        saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
        Reason.MULTI_FRAME,
    ),
    "png, a bomb": (
        _png((30_000, 30_000), 8, bytes(1000)),
        Reason.TOO_LARGE,
    ),
    "png, cut off": (truncated_tail(png(BYTES)), Reason.TRUNCATED),
    "jpeg, colour": (saved(Image.fromarray(COLOURED), "JPEG"), Reason.COLOUR),
    "jpeg, four inks": (
        saved(Image.fromarray(np.repeat(BYTES[..., None], 4, 2), "CMYK"), "JPEG"),
        Reason.COLOUR,
    ),
    "jpeg, cut off": (truncated_tail(JPEG), Reason.TRUNCATED),
    "jpeg, 12 bits": (
        imagecodecs.jpeg_encode(WORDS, level=95, bitspersample=12),
        Reason.DECODE,
    ),
    "tiff, several pages": (
        saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]),
        Reason.MULTI_FRAME,
    ),
    "tiff, colour": (tiff(COLOURED, photometric=2), Reason.COLOUR),
    "tiff, three channels of 16 bits": (tiff(grey(WORDS), photometric=2), Reason.BITS),
    "tiff, signed bytes": (tiff(BYTES, format=2), Reason.BITS),
    "tiff, negative values": (tiff(WORDS.astype(np.int16) - 5, format=2), Reason.BITS),
    "tiff, cut off": (truncated_tail(tiff(WORDS, order=">")), Reason.DECODE),
    "npy, negative values": (npy(WORDS.astype(np.int16) - 5), Reason.BITS),
    "npy, floats that are not whole": (npy(WORDS / 10), Reason.BITS),
    "npy, a value that is no number": (npy(np.where(WORDS > 9, np.nan, 1.0)), Reason.BITS),
    "npy, more than 16 bits": (npy(WORDS.astype(np.uint32) * 17), Reason.BITS),
    "npy, true and false": (npy(BYTES > 99), Reason.BITS),
    "npy, complex numbers": (npy(WORDS.astype(complex)), Reason.BITS),
    "npy, several frames": (npy(np.stack([WORDS, WORDS])), Reason.MULTI_FRAME),
    "npy, colour": (npy(COLOURED), Reason.COLOUR),
    "npy, one row of numbers": (npy(WORDS[0]), Reason.MULTI_FRAME),
    "npy, nothing": (npy(WORDS[:0]), Reason.NO_PIXELS),
    "npy, cut off": (truncated_tail(npy(WORDS)), Reason.TRUNCATED),
    "npy, a claim of gigabytes": (
        npy(BYTES).replace(b"(40, 30), ", b"(99999999, 99999999), ".ljust(10))[:200],
        Reason.TRUNCATED,
    ),
    "text": (b"not an image", Reason.NOT_IMAGE),
    "a web page": (b"<!DOCTYPE html><html>", Reason.NOT_IMAGE),
    "gif": (saved(Image.fromarray(BYTES), "GIF"), Reason.NOT_IMAGE),
    "nothing": (b"", Reason.NOT_IMAGE),
}


@pytest.mark.parametrize("name", REASONS)
def test_a_file_that_is_not_one_grey_image_is_refused_with_its_reason(tmp_path, name):
    content, reason = REASONS[name]
    path = tmp_path / "patient-name.png"
    path.write_bytes(content)
    with pytest.raises(Refusal) as refused:
        read_image(path)
    assert refused.value.reason is reason
    assert "patient-name" not in str(refused.value)


def test_a_pickle_in_an_npy_file_is_not_run(tmp_path):
    made = tmp_path / "made"

    class Hostile:
        def __reduce__(self):
            return (open, (str(made), "w"))

    stream = io.BytesIO()
    np.save(stream, np.array([Hostile()], dtype=object), allow_pickle=True)
    path = tmp_path / "a.npy"
    path.write_bytes(stream.getvalue())
    assert pickle.dumps(Hostile())
    with pytest.raises(Refusal):
        read_image(path)
    assert why_unreadable(path) is Reason.DECODE
    assert not made.exists()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright_as_viewers_show_them(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    content = saved(Image.fromarray(BYTES), form, exif=exif)
    path = tmp_path / "a"
    path.write_bytes(content)
    plain = Image.open(io.BytesIO(saved(Image.fromarray(BYTES), form)))
    plain.load()
    plain.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(plain))
    np.testing.assert_array_equal(read_image(path)[1], expected)
    assert raster_size(path) == expected.shape


@pytest.mark.parametrize(
    "name", ["png, 12 of 16 bits", "jpeg", "tiff, 12 of 16 bits", "npy, 8 bits"]
)
def test_a_cut_off_file_is_refused_wherever_it_is_cut(tmp_path, name):
    content, expected, _ = VALUES[name]
    path = tmp_path / "a"
    for length in range(0, len(content) - 1, 29):
        path.write_bytes(content[:length])
        try:
            pixels = read_image(path)[1]
        except Refusal:
            continue
        # Data after the pixels may be missing.
        np.testing.assert_array_equal(pixels, expected)


def test_a_png_with_a_changed_byte_is_refused(tmp_path):
    content = png(WORDS)
    path = tmp_path / "a"
    for position in range(8, len(content) - 12, 17):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(Refusal):
            read_image(path)


def test_the_content_decides_and_not_the_name(tmp_path, write_dicom):
    dicom = write_dicom(tmp_path / "a.png", WORDS)
    assert raster_kind(dicom) is None
    np.testing.assert_array_equal(read_image(dicom)[1], WORDS)
    # The preamble of a DICOM file may contain the first bytes of a TIFF file.
    content = bytearray(dicom.read_bytes())
    content[:4] = b"II*\0"
    dicom.write_bytes(content)
    np.testing.assert_array_equal(read_image(dicom)[1], WORDS)
    (tmp_path / "a.jpg").write_bytes(png(WORDS))
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg")[1], WORDS)
    (tmp_path / "a.dcm").write_bytes(npy(WORDS))
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm")[1], WORDS)


def test_a_missing_raster_file_and_a_folder_are_refused(tmp_path):
    assert why_unreadable(tmp_path / "a.png") is Reason.MISSING
    assert why_unreadable(tmp_path) is Reason.UNREADABLE


@pytest.mark.parametrize("name", VALUES)
def test_any_bytes_are_read_or_refused(tmp_path, name):
    """A damaged file gives a value or a reason, with any behaviour of the decoder."""
    content = VALUES[name][0]
    random = np.random.default_rng(1)
    path = tmp_path / "a"
    for _ in range(40):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 6)):
            damaged[position] = random.integers(0, 256)
        start, stop = np.sort(random.integers(0, len(content), 2))
        path.write_bytes(damaged if random.random() < 0.7 else damaged[:start] + damaged[stop:])
        try:
            header, pixels = read_image(path)
        except Refusal:
            continue
        assert pixels.shape == (header.rows, header.columns)
        assert pixels.max() < 1 << header.bits_stored
