"""Fixtures that write mammograms, for the tests of files and of their conversion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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

from dicom_streams import encoded


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
