"""Padding values that also occur in tissue."""

from __future__ import annotations

import numpy as np
import pytest

from mammo_sae.dicom.canonical import canonical_image
from mammo_sae.dicom.pixels import read_pixels
from mammo_sae.dicom.refusal import Reason
from mammo_sae.dicom.settings import AsIsSettings, ClinicalSettings

ROWS, COLUMNS = 120, 80
SETTINGS = (
    ClinicalSettings(height=ROWS, width=COLUMNS),
    AsIsSettings(height=ROWS, width=COLUMNS),
)


@pytest.fixture(params=SETTINGS, ids=lambda settings: settings.preprocessing)
def convert(request, tmp_path, write_dicom):
    def run(stored, **elements):
        path = write_dicom(tmp_path / "a.dcm", stored, **elements)
        return canonical_image(*read_pixels(path), request.param)

    return run


@pytest.fixture
def stored(picture) -> np.ndarray:
    return np.rint(picture(ROWS, COLUMNS) * 4000).astype(np.uint16)


def shown(stored: np.ndarray) -> np.ndarray:
    return np.rint(stored / 4095 * 255)


def test_a_padding_value_of_tissue_alone_is_shown_as_tissue(convert, stored):
    value = int(stored[ROWS // 2, 20])
    assert 0 < (stored == value).sum() < 10
    canonical = convert(stored, PixelPaddingValue=value)
    np.testing.assert_array_equal(canonical.pixels, shown(stored))
    assert Reason.PADDING in canonical.notices


def test_saturated_tissue_of_the_value_that_surrounds_the_breast_is_noticed(convert, stored):
    # White around the breast, as in inverted images, and a white spot within.
    stored[stored == 0] = 4095
    stored[50:60, 10:20] = 4095
    canonical = convert(stored, PixelPaddingValue=4095)
    assert Reason.PADDING in canonical.notices
    np.testing.assert_array_equal(canonical.pixels, shown(np.where(stored == 4095, 0, stored)))


def test_padding_around_the_breast_is_no_news(convert, stored):
    stored[stored == 0] = 4095
    canonical = convert(stored, PixelPaddingValue=4095)
    assert canonical.notices == frozenset()
    np.testing.assert_array_equal(canonical.pixels, shown(np.where(stored == 4095, 0, stored)))


def test_black_pixels_in_the_breast_are_black_with_and_without_padding(convert, stored):
    stored[50:60, 10:20] = 0
    canonical = convert(stored, PixelPaddingValue=0)
    assert canonical.notices == frozenset()
    np.testing.assert_array_equal(canonical.pixels, shown(stored))


def test_a_large_image_is_looked_at_in_part_and_shown_in_full(convert, stored):
    large = np.repeat(np.repeat(stored, 20, 0), 20, 1)
    canonical = convert(large, PixelPaddingValue=int(stored[ROWS // 2, 20]))
    np.testing.assert_array_equal(canonical.pixels, shown(stored))
    assert Reason.PADDING in canonical.notices
