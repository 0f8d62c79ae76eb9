from __future__ import annotations

import numpy as np
import pytest

from mammo_sae.dicom.canonical import (
    _longest_run,
    _resize_like_opencv,
    canonical_image,
    published_boxes,
)
from mammo_sae.dicom.files import read_image
from mammo_sae.dicom.geometry import transform_boxes
from mammo_sae.dicom.pixels import read_pixels
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import (
    AsIsSettings,
    ClinicalSettings,
    MammoClipSettings,
    TriageSettings,
)
from mammo_sae.dicom.triage import Expected, judge_image


def stored(shown: np.ndarray) -> np.ndarray:
    return np.rint(shown * 4095).astype(np.uint16)


def test_both_sides_of_a_mirrored_pair_give_the_same_canonical_image(
    tmp_path, write_dicom, picture
):
    settings = ClinicalSettings(height=64, width=48)
    images = [
        canonical_image(
            *read_pixels(write_dicom(tmp_path / f"{side}.dcm", stored(picture(side=side)))),
            settings,
        )
        for side in "LR"
    ]
    left, right = images
    assert [image.geometry.flipped for image in images] == [False, True]
    np.testing.assert_array_equal(left.pixels, right.pixels)
    np.testing.assert_array_equal(left.breast, right.breast)
    assert left.pixels[:, 0].max() > 100
    assert left.pixels[:, -1].max() == 0


@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("shape", [(120, 80), (120, 40), (60, 80)])
def test_the_aspect_ratio_is_kept_by_padding(tmp_path, write_dicom, picture, shape, side):
    path = write_dicom(tmp_path / "a.dcm", stored(picture(*shape, side=side)))
    geometry = canonical_image(*read_pixels(path), ClinicalSettings(height=96, width=64)).geometry
    assert geometry.scale_x == geometry.scale_y
    whole = transform_boxes(geometry.affine, np.array([[0, 0, shape[1], shape[0]]]))[0]
    assert whole[0] == pytest.approx(0)
    assert whole[1] >= 0
    assert whole[2] <= 64 + 1e-9
    assert whole[3] <= 96 + 1e-9
    assert whole[2] == pytest.approx(64) or whole[3] - whole[1] == pytest.approx(96)


def test_boxes_as_published_are_limited_by_the_other_axis():
    """The script's own arithmetic on an image of 120 rows and 80 columns, 5 cut off each side."""
    boxes = np.array([[10, 20, 40, 50], [10, 60, 40, 110], [10, 90, 40, 110], [2, 3, 40, 50]])
    expected = [[10, 20, 40, 50], [10, 60, 40, 75], [5, 5, 40, 50]]
    assert published_boxes(boxes, rows=120, columns=80).tolist() == expected


@pytest.mark.parametrize("settings", [ClinicalSettings(height=96, width=64), MammoClipSettings()])
@pytest.mark.parametrize("side", ["L", "R"])
def test_a_lesions_pixels_lie_in_its_mapped_box(tmp_path, write_dicom, picture, settings, side):
    shown = picture(side=side) * 0.5
    columns = slice(20, 30) if side == "L" else slice(50, 60)
    shown[55:69, columns] = 1.0
    canonical = canonical_image(
        *read_pixels(write_dicom(tmp_path / "a.dcm", stored(shown))), settings
    )
    box = np.array([[columns.start, 55, columns.stop, 69]])
    expected = canonical.geometry.fill_boxes(box)
    lesion = canonical.pixels > 0.75 * 255
    assert (lesion & expected).sum() / (lesion | expected).sum() > 0.9


def test_a_blank_image_is_refused(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", np.full((64, 48), 7, np.uint16))
    for settings in (ClinicalSettings(), MammoClipSettings()):
        with pytest.raises(Refusal) as refused:
            canonical_image(*read_pixels(path), settings)
        assert refused.value.reason is Reason.BLANK


def test_a_single_bright_pixel_keeps_an_image_from_being_blank(tmp_path, write_dicom):
    values = np.zeros((400, 300), np.uint16)
    values[201, 101] = 4095  # between the pixels that the flip is decided on
    path = write_dicom(tmp_path / "a.dcm", values)
    assert canonical_image(*read_pixels(path), ClinicalSettings()).pixels.max() > 0


def published_mammo_clip(data: np.ndarray, photometric: str) -> tuple[np.ndarray, tuple[int, int]]:
    """A simple implementation of Mammo-CLIP's crop: the 8-bit crop and its (left, top)."""
    data = data.astype(np.float32)[5:-5, 5:-5]
    if photometric == "MONOCHROME1":
        data = data.max() - data
    data = data - data.min()
    grey = (data / data.max() * 255).astype(np.uint8)
    cleared = np.where(grey <= 40, 0, grey)

    def longest(varying: np.ndarray) -> tuple[int, int]:
        best, start = (0, 0), None
        for position, flag in enumerate([*varying, False]):
            if flag and start is None:
                start = position
            if not flag and start is not None:
                if position - start > best[1] - best[0]:
                    best = (start, position)
                start = None
        return best

    h = grey.shape[0]
    x0, x1 = longest(cleared[h // 2 - int(0.4 * h) : h // 2 + int(0.4 * h)].std(axis=0) != 0)
    part = cleared[:, x0:x1]
    w = part.shape[1]
    y0, y1 = longest(part[:, w // 2 - int(0.4 * w) : w // 2 + int(0.4 * w)].std(axis=1) != 0)
    return grey[y0:y1, x0:x1], (x0 + 5, y0 + 5)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize(("signed", "most"), [(False, 4095), (False, 3), (True, 4095)])
def test_mammo_clip_crops_and_scales_as_published(
    tmp_path, write_dicom, picture, photometric, side, signed, most
):
    rng = np.random.default_rng(0)
    shown = picture(230, 150, side=side)
    shown = shown * 0.9 + rng.uniform(0, 0.05, shown.shape) + 0.03
    values = np.rint(shown * most).astype(np.uint16)
    values = most - values if photometric == "MONOCHROME1" else values
    values = values.astype(np.int16) - 2048 if signed else values
    path = write_dicom(
        tmp_path / "a.dcm",
        values,
        PhotometricInterpretation=photometric,
        WindowCenter=100,
        WindowWidth=10,
    )
    crop, (left, top) = published_mammo_clip(values, photometric)
    # At the crop's own size nothing is resized, so the pixels must agree exactly.
    settings = MammoClipSettings(height=crop.shape[0], width=crop.shape[1])
    canonical = canonical_image(*read_pixels(path), settings)
    np.testing.assert_array_equal(canonical.pixels, crop)
    assert not canonical.geometry.flipped
    assert canonical.geometry.crop[:2] == (left, top)
    box = transform_boxes(canonical.geometry.affine, np.array([[left, top, left + 1, top + 1]]))
    np.testing.assert_allclose(box, [[0, 0, 1, 1]], atol=1e-9)


def test_the_longest_run_counts_an_edge_run_one_shorter():
    assert _longest_run(np.array([1, 1, 1, 0, 1, 1, 1, 0], bool)) == (4, 7)
    assert _longest_run(np.array([0, 1, 1, 0, 0, 1, 1, 0], bool)) == (1, 3)
    assert _longest_run(np.ones(5, bool)) == (0, 5)


def test_resizing_agrees_with_opencv():
    # cv2.resize(image, (5, 4) and (11, 7), interpolation=cv2.INTER_AREA) of OpenCV 5.0.0
    image = np.arange(48, dtype=np.uint8).reshape(6, 8) * np.uint8(37) % 251
    shrunk = [
        [27, 83, 143, 182, 66],
        [81, 136, 196, 86, 56],
        [147, 192, 92, 67, 122],
        [201, 117, 60, 120, 176],
    ]
    grown = [
        [0, 23, 46, 74, 106, 130, 153, 185, 213, 140, 3],
        [33, 56, 79, 107, 140, 163, 186, 218, 86, 40, 36],
        [67, 90, 113, 141, 173, 196, 198, 81, 45, 46, 70],
        [100, 123, 146, 174, 206, 166, 109, 29, 57, 80, 103],
        [133, 156, 180, 207, 165, 92, 30, 62, 90, 113, 136],
        [167, 190, 202, 198, 44, 40, 63, 95, 123, 146, 170],
        [200, 223, 182, 18, 50, 74, 97, 129, 157, 180, 203],
    ]
    np.testing.assert_allclose(_resize_like_opencv(image, 4, 5), shrunk, atol=1)
    np.testing.assert_allclose(_resize_like_opencv(image, 7, 11), grown, atol=1)


def raster(tmp_path, pixels: np.ndarray) -> tuple:
    np.save(tmp_path / "a.npy", pixels)
    return read_image(tmp_path / "a.npy")


@pytest.mark.parametrize("side", ["L", "R"])
def test_as_is_leaves_an_image_of_the_right_size_as_it_is(tmp_path, picture, side):
    pixels = np.rint(picture(120, 80, side=side) * 200 + 20).astype(np.uint8)
    canonical = canonical_image(*raster(tmp_path, pixels), AsIsSettings(height=120, width=80))
    np.testing.assert_array_equal(canonical.pixels, pixels)
    np.testing.assert_array_equal(canonical.geometry.affine, [[1, 0, 0], [0, 1, 0]])
    assert not canonical.resized
    assert canonical.breast.any()


def test_as_is_maps_sixteen_bits_by_their_nominal_range_alone(tmp_path, picture):
    pixels = np.rint(picture(120, 80) * 3000 + 500).astype(np.uint16)
    canonical = canonical_image(*raster(tmp_path, pixels), AsIsSettings(height=120, width=80))
    np.testing.assert_allclose(canonical.pixels, pixels / 4095 * 255, atol=0.51)


@pytest.mark.parametrize(("rows", "columns"), [(240, 160), (60, 40), (120, 50)])
def test_as_is_resizes_a_whole_image_of_another_size_with_a_notice(
    tmp_path, picture, rows, columns
):
    pixels = np.rint(picture(rows, columns, side="R") * 200).astype(np.uint8)
    canonical = canonical_image(*raster(tmp_path, pixels), AsIsSettings(height=120, width=80))
    scale = min(120 / rows, 80 / columns)
    np.testing.assert_allclose(canonical.geometry.affine, [[scale, 0, 0], [0, scale, 0]])
    shown = _resize_like_opencv(pixels, round(rows * scale), round(columns * scale))
    inside = canonical.pixels[: shown.shape[0], : shown.shape[1]].astype(int)
    np.testing.assert_allclose(inside, shown, atol=1)
    assert canonical.resized
    found = judge_image(canonical, Expected(side="R", view="CC"), TriageSettings())
    assert found == [Reason.RESIZED]


def test_as_is_refuses_an_image_without_content(tmp_path):
    with pytest.raises(Refusal) as refused:
        canonical_image(*raster(tmp_path, np.full((50, 50), 9, np.uint8)), AsIsSettings())
    assert refused.value.reason is Reason.BLANK


# Results of OpenCV 5.0.0, as above, with rows separated by commas. In all of these a border between
# source pixels falls on one between target pixels; in the third and the fourth one axis grows and
# the other shrinks.
RESIZED = {
    (2, 14): (
        "0 26 53 79 111 143 169 196 222 222 34 61 87 119 151 177 204 230, "
        "8 34 61 87 119 151 177 204 230 230 42 69 95 127 159 185 212 238, "
        "16 42 69 95 127 159 185 212 238 238 50 77 103 135 167 193 220 246"
    ),
    (2, 21): (
        "0 26 53 79 111 143 169 196 222 222 34 61 87 119 151 177 204 230 230 42 69 95 127 "
        "159 185 212 238, "
        "24 50 77 103 135 167 193 220 246 246 58 85 111 143 175 201 156 3 3 66 93 119 151 "
        "183 209 164 11"
    ),
    (26, 2): (
        "46 64 82, 211 123 35, 170 189 207, 84 103 121, 102 91 81, 135 154 172, 169 187 205, "
        "128 147 165, 62 70 79, 60 78 97"
    ),
    (2, 22): (
        "7 50 94 138 182 164 25 69 112 119 206 113 43 87 137 181 225 63, "
        "37 81 125 168 212 103 55 99 143 150 111 87 73 117 168 154 130 70, "
        "68 111 155 199 243 42 86 130 173 180 16 60 104 148 198 128 35 78"
    ),
    (14, 1): ("0, 26, 53, 79, 111, 143, 169, 195, 222, 222, 34, 61, 87, 119, 151, 177, 203, 230"),
    (3, 28): (
        "13 63 127 177 115 40 103 153 217 230 79 143 193 131 56 119 169 233, "
        "34 85 148 198 53 61 124 175 130 84 101 164 214 68 77 140 190 146, "
        "56 106 169 220 32 82 146 196 68 22 122 185 170 48 98 162 212 84, "
        "77 127 191 241 54 104 167 217 30 43 143 207 60 70 120 183 233 46"
    ),
}


@pytest.mark.parametrize("shape", RESIZED)
def test_resizing_agrees_with_opencv_where_borders_of_pixels_meet(shape):
    expected = np.array([row.split() for row in RESIZED[shape].split(",")], dtype=int)
    image = (np.arange(shape[0] * shape[1]) * 37 % 251).astype(np.uint8).reshape(shape)
    resized = _resize_like_opencv(image, *expected.shape)
    np.testing.assert_allclose(resized.astype(int), expected, atol=1)


def test_the_sizes_of_the_preprocessings_are_those_of_the_publication_and_of_the_demo():
    assert (MammoClipSettings().height, MammoClipSettings().width) == (1520, 912)
    assert (ClinicalSettings().height, ClinicalSettings().width) == (384, 256)
