from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, Sequence, uid

from mammo_sae.dicom.canonical import canonical_image
from mammo_sae.dicom.header import Lut
from mammo_sae.dicom.pixels import DECODERS, display_values, read_pixels
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import ClinicalSettings

SETTINGS = ClinicalSettings(height=120, width=80)
CENTER, WIDTH = 2000.0, 1500.0


def inverse_window(shown: np.ndarray, function: str) -> np.ndarray:
    """Values that the window displays as `shown`: the formulas of PS3.3 C.11.2.1, inverted."""
    if function == "LINEAR":
        return (shown - 0.5) * (WIDTH - 1) + CENTER - 0.5
    if function == "LINEAR_EXACT":
        return (shown - 0.5) * WIDTH + CENTER
    return CENTER - WIDTH / 4 * np.log(1 / np.clip(shown, 0.02, 0.98) - 1)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", "VOI LUT"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_every_encoding_of_a_picture_gives_the_same_canonical_image(
    tmp_path, write_dicom, picture, lut_item, photometric, function, signed
):
    shown = np.clip(picture(), 0.02, 0.98)
    presented = 1 - shown if photometric == "MONOCHROME1" else shown
    elements = {"PhotometricInterpretation": photometric, "PresentationLUTShape": "IDENTITY"}
    if photometric == "MONOCHROME1":
        elements["PresentationLUTShape"] = "INVERSE"
    if function == "VOI LUT":
        curve = np.linspace(0, 1, 3001) ** 2
        modality = np.rint(np.sqrt(presented) * 3000) + 300
        elements["VOILUTSequence"] = Sequence([lut_item(np.rint(curve * 4095), 300, 12)])
    else:
        modality = inverse_window(presented, function)
        elements |= {"WindowCenter": CENTER, "WindowWidth": WIDTH, "VOILUTFunction": function}
    # stored * 1 + intercept = modality value; a signed file stores values around zero
    intercept = 2048 if signed else 0
    elements |= {"RescaleSlope": 1, "RescaleIntercept": intercept}
    stored = np.rint(modality - intercept).astype(np.int16 if signed else np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, **elements)

    canonical = canonical_image(*read_pixels(path), SETTINGS)

    assert np.abs(canonical.pixels.astype(int) - np.rint(shown * 255)).max() <= 1


def test_inversion_uses_the_nominal_range_not_the_values_that_occur(tmp_path, write_dicom):
    stored = np.array([[1000, 1500], [2000, 2500]], np.uint16)
    elements = {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "LINEAR_EXACT"}
    one = write_dicom(
        tmp_path / "1.dcm", stored, PhotometricInterpretation="MONOCHROME1", **elements
    )
    header, read = read_pixels(one)
    np.testing.assert_allclose(display_values(header)[read], 1 - stored / 4096, atol=1e-6)


def test_an_8_bit_voi_lut_on_12_bit_pixels_is_indexed_beyond_255(tmp_path, write_dicom, lut_item):
    lut = np.arange(4096) // 16
    item = lut_item(lut, 0, 8)
    stored = np.array([[0, 255], [256, 4095]], np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, VOILUTSequence=Sequence([item]))
    header, read = read_pixels(path)
    np.testing.assert_allclose(display_values(header)[read] * 255, [[0, 15], [16, 255]], atol=1e-4)


def test_an_8_bit_lut_packed_as_bytes_is_read_as_bytes(tmp_path, write_dicom):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 8])
    item.add_new("LUTData", "OW", bytes(range(256)))
    stored = np.array([[0, 7], [100, 255]], np.uint8)
    path = write_dicom(tmp_path / "a.dcm", stored, bits=8, VOILUTSequence=Sequence([item]))
    header, read = read_pixels(path)
    np.testing.assert_allclose(display_values(header)[read] * 255, stored, atol=1e-4)


def test_a_modality_lut_comes_before_the_window(tmp_path, write_dicom, lut_item):
    curve = np.arange(4096)[::-1]
    path = write_dicom(
        tmp_path / "a.dcm",
        np.array([[0, 4095], [1024, 3071]], np.uint16),
        ModalityLUTSequence=Sequence([lut_item(curve, 0, 12, vr="OW")]),
        WindowCenter=2048,
        WindowWidth=4096,
        VOILUTFunction="LINEAR_EXACT",
    )
    header, read = read_pixels(path)
    expected = np.array([[4095, 0], [3071, 1024]]) / 4096
    np.testing.assert_allclose(display_values(header)[read], expected, atol=1e-6)


def test_words_of_a_lut_are_read_in_the_file_s_byte_order(tmp_path, write_dicom):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 12])
    item.add_new("LUTData", "OW", np.arange(4096)[::-1].astype(">u2").tobytes())
    path = write_dicom(
        tmp_path / "a.dcm",
        np.array([[0, 1, 4095]], np.uint16),
        syntax=uid.ExplicitVRBigEndian,
        VOILUTSequence=Sequence([item]),
    )
    header, read = read_pixels(path)
    np.testing.assert_allclose(display_values(header)[read] * 4095, [[4095, 4094, 0]], atol=1e-3)


@pytest.mark.parametrize(("slope", "first"), [(-1, -4095), (1, -2048)])
def test_a_voi_lut_may_begin_below_zero_whatever_the_slope(tmp_path, write_dicom, slope, first):
    stored = np.array([[0, 1, 4095]], np.uint16)
    path = write_dicom(
        tmp_path / "a.dcm",
        stored,
        RescaleSlope=slope,
        RescaleIntercept=0 if slope < 0 else first,
        VOILUTSequence=Sequence([lut(np.arange(4096), first)]),
    )
    header, read = read_pixels(path)
    expected = 4095 - stored if slope < 0 else stored
    np.testing.assert_allclose(display_values(header)[read] * 4095, expected, atol=1e-3)


def lut(values: np.ndarray, first: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values), first % 65536, 12])
    item.add_new("LUTData", "US", values.tolist())
    return item


@pytest.mark.parametrize(
    ("largest", "bits", "top"),
    [
        (4095, 12, 4095),
        (4095, 13, 4095),
        (4096, 13, 8191),
        (100, 12, 100),
        (1, 12, 1),
        (0, 12, 4095),
    ],
)
def test_a_table_is_scaled_by_its_bits_or_by_its_largest_entry_if_that_needs_fewer(
    largest, bits, top
):
    assert Lut(0, np.array([0, largest]), bits).top == top


@pytest.mark.parametrize("center", [100, 100.5])
def test_a_linear_window_of_width_one_is_a_step_above_half_a_unit_below_its_centre(
    tmp_path, write_dicom, center
):
    stored = np.array([[99, 100, 101]], np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, WindowCenter=center, WindowWidth=1)
    header, read = read_pixels(path)
    assert display_values(header)[read].tolist() == [[0, int(center == 100), 1]]


@pytest.mark.parametrize(
    ("magnification", "factor"), [(1.5, 1.5), (9.5, 9.5), (1, 1), (0.9, 1), (0, 1), (10, 1)]
)
def test_the_spacing_of_the_detector_is_divided_by_a_plausible_magnification(
    tmp_path, write_dicom, magnification, factor
):
    elements = {
        "ImagerPixelSpacing": [0.1, 0.12],
        "EstimatedRadiographicMagnificationFactor": magnification,
    }
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16), **elements)
    assert read_pixels(path)[0].spacing_mm == pytest.approx((0.1 / factor, 0.12 / factor))
    elements["PixelSpacing"] = [0.07, 0.08]
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16), **elements)
    assert read_pixels(path)[0].spacing_mm == pytest.approx((0.07, 0.08))


def test_the_settings_choose_among_several_windows(tmp_path, write_dicom):
    path = write_dicom(
        tmp_path / "a.dcm",
        np.array([[1000, 3000]], np.uint16),
        WindowCenter=[1000, 3000],
        WindowWidth=[100, 100],
        VOILUTFunction="LINEAR_EXACT",
    )
    header, read = read_pixels(path)
    np.testing.assert_allclose(display_values(header, voi_index=0)[read], [[0.5, 1]])
    np.testing.assert_allclose(display_values(header, voi_index=1)[read], [[0, 0.5]])
    with pytest.raises(Refusal) as refused:
        display_values(header, voi_index=2)
    assert refused.value.reason is Reason.WINDOW


def test_without_a_window_or_on_request_the_nominal_range_is_shown(tmp_path, write_dicom):
    stored = np.array([[0, 4095]], np.uint16)
    header, read = read_pixels(write_dicom(tmp_path / "a.dcm", stored))
    np.testing.assert_allclose(display_values(header)[read], [[0, 1]])
    windowed = write_dicom(tmp_path / "b.dcm", stored, WindowCenter=9, WindowWidth=2)
    header, read = read_pixels(windowed)
    np.testing.assert_allclose(display_values(header, voi="none")[read], [[0, 1]])


@pytest.mark.parametrize("signed", [False, True])
def test_padding_and_its_range_become_background(tmp_path, write_dicom, signed):
    values = [-2000, -1990, 100, 2000] if signed else [4000, 4010, 100, 2000]
    stored = np.array([values], np.int16 if signed else np.uint16)
    path = write_dicom(
        tmp_path / "a.dcm",
        stored,
        PixelPaddingValue=values[0],
        PixelPaddingRangeLimit=values[1],
        PhotometricInterpretation="MONOCHROME1",
    )
    header, read = read_pixels(path)
    shown = display_values(header)[read][0]
    assert (shown[:2] == 0).all()
    assert (shown[2:] > 0).all()


def test_left_aligned_pixels_are_shifted_into_place(tmp_path, write_dicom):
    stored = np.array([[0, 1], [2047, 4095]], np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored << 4, HighBit=15)
    np.testing.assert_array_equal(read_pixels(path)[1], stored)


def test_rubbish_in_the_unused_bits_is_ignored(tmp_path, write_dicom):
    stored = np.array([[0, 1], [2047, 4095]], np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored | 0xA000)
    np.testing.assert_array_equal(read_pixels(path)[1], stored)


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
def test_native_syntaxes_give_the_same_codes(tmp_path, write_dicom, syntax):
    stored = np.random.default_rng(0).integers(0, 4096, (40, 30)).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, syntax=syntax)
    np.testing.assert_array_equal(read_pixels(path)[1], stored)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_lossless_syntaxes_give_the_same_codes(tmp_path, write_dicom, syntax, signed):
    stored = np.random.default_rng(0).integers(0, 2048, (64, 48))
    stored = (stored - 1024).astype(np.int16) if signed else stored.astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, compress=syntax)
    np.testing.assert_array_equal(read_pixels(path)[1], stored & 0xFFF)


@pytest.mark.parametrize(
    "syntax", [None, uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless]
)
def test_truncated_pixel_data_are_refused(tmp_path, write_dicom, syntax):
    stored = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, compress=syntax)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(Refusal) as refused:
        read_pixels(path)
    # A truncated RLE segment looks like a damaged one, and a truncated pixel element like a missing
    # one.
    assert refused.value.reason is Reason.TRUNCATED


def test_a_truncated_deflated_file_is_refused(tmp_path, write_dicom):
    stored = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, syntax=uid.DeflatedExplicitVRLittleEndian)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(Refusal):
        read_pixels(path)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"NumberOfFrames": 3}, Reason.MULTI_FRAME),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.COLOUR),
        ({"BitsStored": 17}, Reason.BITS),
        ({"Rows": None}, Reason.HEADER),
        ({"WindowCenter": [1, 2], "WindowWidth": 5}, Reason.WINDOW),
        ({"PixelData": None}, Reason.NO_PIXELS),
        ({"BitsAllocated": 32}, Reason.BITS),
    ],
)
def test_an_image_that_is_no_plain_mammogram_is_refused_with_its_reason(
    tmp_path, write_dicom, elements, reason
):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16), **elements)
    with pytest.raises(Refusal) as refused:
        header, _ = read_pixels(path)
        display_values(header)
    assert refused.value.reason is reason


def test_an_empty_pixel_element_counts_as_missing(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 4), np.uint16))
    dataset = pydicom.dcmread(path)
    dataset.PixelData = b""
    dataset.save_as(path)
    with pytest.raises(Refusal) as refused:
        read_pixels(path)
    assert refused.value.reason is Reason.NO_PIXELS


def test_a_missing_file_and_a_text_file_are_refused_without_their_paths(tmp_path):
    text = tmp_path / "patient-name.dcm"
    for reason in (Reason.MISSING, Reason.NOT_IMAGE):
        with pytest.raises(Refusal) as refused:
            read_pixels(text)
        assert refused.value.reason is reason
        assert "patient-name" not in str(refused.value)
        text.write_text("not an image")


def test_every_compressed_syntax_has_one_decoder_and_it_is_installed():
    from pydicom.pixels import get_decoder

    for syntax, plugin in DECODERS.items():
        assert plugin in get_decoder(syntax)._available, f"{syntax.name} needs {plugin}"
