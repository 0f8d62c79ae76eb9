"""Numbers of a header that pixels are compared with or multiplied by."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from mammo_sae.dicom.elements import Elements
from mammo_sae.dicom.header import _as_stored, _rescaling
from mammo_sae.dicom.refusal import Reason


@pytest.mark.parametrize(
    ("value", "bits", "signed", "stored"),
    [
        (2000, 12, False, 2000),
        (-2000, 16, False, 63536),
        (-2000, 12, True, -2000),
        (63536, 12, True, -2000),  # -2000 as an unsigned number of 16 bits
        (2096, 12, True, -2000),  # -2000 as an unsigned number of 12 bits
        (2047, 12, True, 2047),
        (2048, 12, True, -2048),
        (32768, 16, True, -32768),
    ],
)
def test_a_padding_value_is_compared_as_the_pixels_store_it(value, bits, signed, stored):
    assert _as_stored(value, bits, signed) == stored


@pytest.mark.parametrize(
    ("slope", "intercept", "refused"),
    [
        ("3e33", "2e38", True),  # 65536 times the slope is 1.97e38, and the largest number 3.4e38
        ("-3e33", "2e38", True),
        ("3e33", "-2e38", True),
        ("3e33", "1e38", False),
    ],
)
def test_a_rescaling_beyond_single_precision_is_refused(slope, intercept, refused):
    dataset = Dataset()
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
    why: dict[str, Reason] = {}
    found = _rescaling(Elements(dataset), why)
    expected = {"RescaleIntercept": Reason.HEADER} if refused else {}
    assert why == expected
    assert found == ((1.0, 0.0) if refused else (float(slope), float(intercept)))
