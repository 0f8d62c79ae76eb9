"""Files that claim more data than any image has are refused before memory is allocated."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom import uid

from mammo_sae.cohorts.facts import read_facts
from mammo_sae.dicom import pixels, reading
from mammo_sae.dicom.pixels import read_pixels
from mammo_sae.dicom.refusal import Reason, Refusal

RAMP = np.linspace(0, 4095, 4800).astype(np.uint16).reshape(60, 80)


def refusal(path) -> Reason:
    with pytest.raises(Refusal) as refused:
        read_pixels(path)
    return refused.value.reason


@pytest.fixture
def bomb(tmp_path, write_dicom):
    """A deflated file of a few kilobytes that contains the given number of zero bytes."""

    def write(size: int):
        path = write_dicom(tmp_path / "a.dcm", RAMP, syntax=uid.DeflatedExplicitVRLittleEndian)
        dataset = pydicom.dcmread(path)
        dataset.add_new(0x00090010, "LO", "ACME")
        dataset.add_new(0x00091001, "OB", bytes(size))
        dataset.save_as(path)
        return path

    return write


def test_a_deflated_file_larger_than_any_image_is_refused(bomb, monkeypatch):
    monkeypatch.setattr(reading, "MOST_INFLATED", 8 << 20)
    path = bomb(16 << 20)
    assert path.stat().st_size < 1 << 16
    inflated = []
    monkeypatch.setattr(pydicom, "dcmread", lambda *a, **k: inflated.append(a))
    assert refusal(path) is Reason.TOO_LARGE
    assert read_facts([path], "read") == [None]
    assert pixels.why_unreadable(path) is Reason.TOO_LARGE
    assert inflated == []


def test_a_deflated_file_within_the_bound_is_read(bomb, monkeypatch):
    monkeypatch.setattr(reading, "MOST_INFLATED", 8 << 20)
    np.testing.assert_array_equal(read_pixels(bomb(4 << 20))[1], RAMP)


@pytest.mark.parametrize("compress", [None, uid.RLELossless, uid.JPEGLSLossless])
def test_a_header_of_more_pixels_than_any_mammogram_is_refused(tmp_path, write_dicom, compress):
    path = write_dicom(tmp_path / "a.dcm", RAMP, compress=compress)
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Columns = 65535
    dataset.save_as(path)
    assert refusal(path) is Reason.TOO_LARGE


@pytest.mark.parametrize(
    "syntax",
    [
        uid.JPEGLosslessSV1,
        uid.JPEGExtended12Bit,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.HTJ2KLossless,
    ],
)
def test_a_stream_of_another_size_is_refused_before_it_is_decoded(
    tmp_path, write_dicom, monkeypatch, syntax
):
    path = write_dicom(tmp_path / "a.dcm", RAMP, compress=syntax)
    dataset = pydicom.dcmread(path)
    dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows
    dataset.save_as(path)
    asked = []
    monkeypatch.setattr(pixels, "get_decoder", lambda syntax: asked.append(syntax))
    assert refusal(path) is Reason.DECODE
    assert asked == []


def test_a_file_of_several_transfer_syntaxes_is_refused(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    content = path.read_bytes()
    name = b"1.2.840.10008.1.2.1"
    path.write_bytes(content.replace(name, b"1.2.840.10008.1\\2.1", 1))
    assert refusal(path) is Reason.SYNTAX
