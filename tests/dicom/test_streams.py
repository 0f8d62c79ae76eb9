"""Streams of the JPEG families, whole and truncated."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from mammo_sae.dicom.pixels import DECODERS, read_pixels
from mammo_sae.dicom.refusal import Reason, Refusal

STREAMS = sorted(set(DECODERS) - {uid.RLELossless})


@pytest.fixture
def write_stream(tmp_path, write_dicom):
    """Write an image in a transfer syntax, and keep only a share of its stream."""

    def write(syntax: str, kept: float = 1.0, **elements):
        y, x = np.mgrid[:40, :48]
        stored = np.clip((x * 61 + y * 37) % 4096 + (x * y) % 7, 0, 4095).astype(np.uint16)
        bits = 12
        if syntax == uid.JPEGBaseline8Bit:
            stored, bits = (stored >> 4).astype(np.uint8), 8
        path = write_dicom(tmp_path / "a.dcm", stored, bits=bits, compress=syntax, **elements)
        dataset = pydicom.dcmread(path)
        stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
        dataset.PixelData = encapsulate([stream[: int(len(stream) * kept)]])
        dataset.save_as(path)
        return path

    return write


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.97])
@pytest.mark.parametrize("syntax", STREAMS, ids=lambda syntax: uid.UID(syntax).keyword)
def test_a_truncated_stream_of_any_family_is_refused(write_stream, syntax, kept):
    read_pixels(write_stream(syntax))
    with pytest.raises(Refusal) as refused:
        read_pixels(write_stream(syntax, kept))
    assert refused.value.reason is Reason.TRUNCATED


def test_left_aligned_pixels_in_a_compressed_stream_are_refused(write_stream):
    path = write_stream(uid.HTJ2KLossless)
    dataset = pydicom.dcmread(path)
    dataset.HighBit = 15
    dataset.save_as(path)
    with pytest.raises(Refusal) as refused:
        read_pixels(path)
    assert refused.value.reason is Reason.BITS
