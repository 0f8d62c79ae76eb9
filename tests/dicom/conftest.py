from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

# JPEG streams carry codes, whose sign the header alone tells; those of JPEG 2000 have a sign.
CODES = {
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
    codes = stored.view(f"u{stored.dtype.itemsize}") & ((1 << bits) - 1)
    depth = {"bitspersample": bits} if syntax in {uid.JPEGLossless, uid.JPEGLosslessSV1} else {}
    return bytes(CODES[syntax](codes.astype(stored.dtype.str.replace("i", "u")), **depth))


def breast_picture(rows: int = 120, columns: int = 80, *, side: str = "L") -> np.ndarray:
    """Display values in [0, 1]: a bright half-ellipse on the chest-wall side, black elsewhere."""
    y, x = np.mgrid[:rows, :columns]
    depth = 1 - ((x + 0.5) / (0.7 * columns)) ** 2 - ((y + 0.5 - rows / 2) / (0.4 * rows)) ** 2
    picture = np.where(depth > 0, 0.35 + 0.5 * np.clip(depth, 0, 1), 0.0)
    return picture if side == "L" else picture[:, ::-1]


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    return breast_picture


@pytest.fixture
def write_dicom() -> Callable[..., Path]:
    """Write stored values as a mammogram; keyword arguments set or (None) delete elements."""

    def write(
        path: Path,
        stored: np.ndarray,
        *,
        bits: int = 12,
        syntax: str = ExplicitVRLittleEndian,
        compress: str | None = None,
        **elements: object,
    ) -> Path:
        signed = stored.dtype.kind == "i"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = syntax
        dataset = FileDataset(
            str(path),
            {},
            file_meta=meta,
            preamble=b"\0" * 128,
            is_implicit_VR=meta.TransferSyntaxUID.is_implicit_VR,
            is_little_endian=meta.TransferSyntaxUID.is_little_endian,
        )
        dataset.SOPClassUID = meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        dataset.Modality = "MG"
        dataset.Rows, dataset.Columns = stored.shape
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated = 8 * stored.dtype.itemsize
        dataset.BitsStored = bits
        dataset.HighBit = bits - 1
        dataset.PixelRepresentation = int(signed)
        dataset.ImagerPixelSpacing = [0.1, 0.1]
        for name, value in elements.items():
            if value is not None:
                setattr(dataset, name, value)
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        dataset.PixelData = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
        dataset["PixelData"].VR = "OW" if stored.dtype.itemsize == 2 else "OB"
        if compress == uid.RLELossless:
            dataset.compress(compress, generate_instance_uid=False)
        elif compress is not None:
            dataset.PixelData = encapsulate([encoded(stored, bits, compress)])
            dataset["PixelData"].VR = "OB"
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = compress
        for name, value in elements.items():
            if value is None and name in dataset:
                delattr(dataset, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def lut_item() -> Callable[..., Dataset]:
    """A lookup table of the header, as words or as bytes."""

    def make(values: np.ndarray, first: int, bits: int, *, vr: str = "US") -> Dataset:
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [len(values) % 65536, first % 65536, bits])
        data = values.astype("<u2")
        item.add_new("LUTData", vr, data.tobytes() if vr == "OW" else data.tolist())
        return item

    return make
