from __future__ import annotations

import numpy as np
import pytest

from mammo_sae.dicom.breast import breast_mask, is_on_the_right


def grey(picture: np.ndarray) -> np.ndarray:
    return np.rint(picture * 255).astype(np.uint8)


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    return (found & truth).sum() / (found | truth).sum()


@pytest.mark.parametrize("size", [(384, 256), (1520, 912), (1001, 605)])
@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_the_breast_is_found_with_and_without_noise(picture, noise, size):
    shown = picture(*size)
    noisy = grey(shown) + np.random.default_rng(0).normal(0, noise, shown.shape)
    found = breast_mask(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
    assert overlap(found, shown > 0) > 0.95


@pytest.mark.parametrize("side", ["L", "R"])
def test_a_bright_marker_is_not_the_breast(picture, side):
    shown = picture(384, 256, side=side)
    marked = grey(shown)
    corner = np.s_[10:40, 200:240] if side == "L" else np.s_[10:40, 16:56]
    marked[corner] = 255
    found = breast_mask(marked)
    assert not found[corner].any()
    assert overlap(found, shown > 0) > 0.95
    assert is_on_the_right(found) == (side == "R")


@pytest.mark.parametrize(("rows", "level", "stays"), [(2, 30, False), (1, 100, True)])
def test_a_line_thinner_than_the_opening_of_seven_pixels_is_detached(picture, rows, level, stays):
    # Averaged over 7 rows and cut 5 levels above black, the first line has 6 rows, the second 7.
    shown = grey(picture(384, 256))
    shown[192 : 192 + rows, 170:] = np.maximum(shown[192 : 192 + rows, 170:], level)
    beyond = breast_mask(shown)[180:205, 200:240]
    assert beyond.any() == stays
    assert not stays or (beyond.sum(axis=0) == 7).all()


def test_a_dark_hole_inside_the_breast_belongs_to_it(picture):
    shown = grey(picture(384, 256))
    shown[180:200, 40:60] = 0
    assert breast_mask(shown)[180:200, 40:60].all()


def test_an_empty_image_has_no_breast():
    found = breast_mask(np.zeros((64, 48), np.uint8))
    assert not found.any()
    assert not is_on_the_right(found)
