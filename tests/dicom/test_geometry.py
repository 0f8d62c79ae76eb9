from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammo_sae.dicom.geometry import Geometry, area_weights, invert_affine, transform_boxes

BINARY = np.array([0, 1], np.float32)
GEOMETRIES = [
    Geometry((0, 0, 80, 120), False, 0.5, 0.5, 0.0, 4.0, 68, 48),
    Geometry((0, 0, 80, 120), True, 0.37, 0.37, 0.0, 2.0, 50, 31),
    Geometry((7, 11, 61, 99), True, 0.8, 0.3, 0.0, 0.0, 27, 44),
    Geometry((5, 5, 75, 115), False, 1.7, 1.2, 0.0, 0.0, 132, 119),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_boxes_come_back_from_the_canonical_image(geometry):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform([0, 0], [80, 120], (20, 2, 2)), axis=1)
    boxes = corners.reshape(20, 4)
    back = transform_boxes(invert_affine(geometry.affine), transform_boxes(geometry.affine, boxes))
    np.testing.assert_allclose(back, boxes, atol=1e-9)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_bright_rectangle_lands_where_its_box_lands(geometry):
    pixels = np.zeros((120, 80), np.uint16)
    pixels[30:71, 20:53] = 1
    x0, y0, x1, y1 = transform_boxes(geometry.affine, np.array([[20, 30, 53, 71]]))[0]
    resampled = geometry.resample(pixels, BINARY)
    # The centre of mass assumes that each pixel's share is at its centre, which is right within
    # 0.02 pixels.
    mass = resampled.sum()
    assert mass == pytest.approx((x1 - x0) * (y1 - y0), rel=1e-4)
    rows, columns = resampled.sum(axis=1), resampled.sum(axis=0)
    centre_y = (rows * (np.arange(len(rows)) + 0.5)).sum() / mass
    centre_x = (columns * (np.arange(len(columns)) + 0.5)).sum() / mass
    assert centre_x == pytest.approx((x0 + x1) / 2, abs=0.02)
    assert centre_y == pytest.approx((y0 + y1) / 2, abs=0.02)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_mask_and_its_filled_box_cover_the_same_pixels(geometry):
    mask = np.zeros((120, 80), bool)
    mask[30:71, 20:53] = True
    np.testing.assert_array_equal(
        geometry.resample_mask(mask), geometry.fill_boxes(np.array([[20, 30, 53, 71]]))
    )


def test_a_mask_follows_the_pixels_of_its_image():
    geometry = GEOMETRIES[1]
    y, x = np.mgrid[:120, :80]
    disc = (x - 30) ** 2 + (y - 60) ** 2 < 18**2
    np.testing.assert_array_equal(
        geometry.resample_mask(disc), geometry.resample(disc.astype(np.uint8), BINARY) > 0.5 - 1e-4
    )


def test_a_speck_smaller_than_a_canonical_pixel_does_not_vanish():
    geometry = Geometry((0, 0, 800, 1200), False, 0.1, 0.1, 0.0, 0.0, 120, 80)
    mask = np.zeros((1200, 800), bool)
    mask[503:505, 207:209] = True
    found = geometry.resample_mask(mask)
    assert found.sum() == 1
    assert found[50, 20]
    boxes = geometry.fill_boxes(np.array([[207.0, 503.0, 209.0, 505.0]]))
    np.testing.assert_array_equal(boxes, found)


def test_boxes_outside_of_the_crop_are_dropped():
    geometry = Geometry((40, 0, 80, 120), False, 0.5, 0.5, 0.0, 0.0, 60, 20)
    mask = np.zeros((120, 80), bool)
    mask[50:60, 10:20] = True
    assert not geometry.resample_mask(mask).any()
    assert not geometry.fill_boxes(np.array([[10, 50, 20, 60]])).any()


@given(
    source=st.integers(1, 60),
    target=st.integers(1, 60),
    scale=st.floats(0.05, 5),
    offset=st.floats(0, 10),
)
def test_area_weights_conserve_the_area_inside(source, target, scale, offset):
    weights = area_weights(source, target, scale, offset).toarray()
    assert (weights >= 0).all()
    inside = np.clip(np.arange(source + 1) * scale + offset, 0, target)
    np.testing.assert_allclose(weights.sum(axis=0), np.diff(inside), atol=1e-4)
    assert weights.sum(axis=1).max() <= 1 + 1e-4


def test_rows_taken_in_blocks_are_the_whole_image_resampled():
    rng = np.random.default_rng(1)
    stored, table = rng.integers(0, 4096, (121, 83), dtype=np.uint16), rng.random(4096, np.float32)
    for base in GEOMETRIES:
        whole = replace(base, crop=(0, 0, 83, 121))
        vertical = area_weights(121, whole.height, whole.scale_y, whole.offset_y)
        horizontal = area_weights(83, whole.width, whole.scale_x, whole.offset_x)
        shown = table[stored][:, ::-1] if whole.flipped else table[stored]
        expected = (horizontal @ (vertical @ shown).T).T
        np.testing.assert_allclose(whole.resample(stored, table), expected, rtol=1e-6, atol=1e-7)


def test_a_whole_number_factor_averages_blocks():
    rng = np.random.default_rng(0)
    stored, table = rng.integers(0, 100, (12, 20), dtype=np.uint16), rng.random(100, np.float32)
    geometry = Geometry((0, 0, 20, 12), False, 0.25, 0.25, 0.0, 0.0, 3, 5)
    expected = table[stored].reshape(3, 4, 5, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(geometry.resample(stored, table), expected, rtol=1e-5)
