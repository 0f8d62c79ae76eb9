"""Headers that contradict the pixels: the reader gives the right values and a notice."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom import Sequence, uid
from pydicom.encaps import encapsulate

from mammo_sae.cohorts.ages import age_in_years
from mammo_sae.cohorts.facts import read_facts
from mammo_sae.dicom import pixels
from mammo_sae.dicom.canonical import canonical_image
from mammo_sae.dicom.pixels import display_values, read_pixels, signed_values
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import ClinicalSettings

AT_SIXTY = ["060Y", "060", "60Y", "60", "720M", "060 Y", "060y", "3131W", "60.0"]
RAMP = np.linspace(0, 4095, 4800).astype(np.uint16).reshape(60, 80)


def shown(path, **options) -> np.ndarray:
    header, read = read_pixels(path)
    return display_values(header, **options)[read]


@pytest.mark.parametrize("bits", [12, 14, 16])
def test_a_voi_lut_is_scaled_by_its_largest_entry_where_that_needs_fewer_bits(
    tmp_path, write_dicom, lut_item, bits
):
    item = lut_item(np.arange(4096), 0, bits)
    path = write_dicom(tmp_path / "a.dcm", RAMP, VOILUTSequence=Sequence([item]))
    np.testing.assert_allclose(shown(path), RAMP / 4095, atol=1e-6)
    assert (Reason.BITS_UNUSED in read_pixels(path)[0].notices) == (bits > 12)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_twelve_bits_in_a_header_of_sixteen_are_shown_in_full_with_a_notice(
    tmp_path, write_dicom, photometric
):
    path = write_dicom(tmp_path / "a.dcm", RAMP, bits=16, PhotometricInterpretation=photometric)
    expected = RAMP / 4095
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    np.testing.assert_allclose(shown(path), expected, atol=1e-6)
    canonical = canonical_image(*read_pixels(path), ClinicalSettings(height=60, width=80))
    assert Reason.BITS_UNUSED in canonical.notices


@pytest.mark.parametrize("syntax", [None, uid.RLELossless])
def test_pixels_that_go_on_above_bits_stored_are_read_whole(tmp_path, write_dicom, syntax):
    stored = np.linspace(0, 16383, 60 * 800).astype(np.uint16).reshape(60, 800)
    path = write_dicom(tmp_path / "a.dcm", stored, bits=12, compress=syntax)
    header, read = read_pixels(path)
    np.testing.assert_array_equal(read, stored)
    assert header.bits_stored == 14
    assert Reason.BITS_EXCEEDED in header.notices


def test_a_breast_of_sixteen_bits_under_a_header_of_twelve_is_no_noise(
    tmp_path, write_dicom, picture
):
    noise = np.random.default_rng(0).normal(0, 0.01, (600, 400))
    shade = np.clip(picture(600, 400) + noise, 0, 1)
    stored = np.round(65535 * shade).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, bits=12)
    header, read = read_pixels(path)
    np.testing.assert_array_equal(read, stored)
    assert header.bits_stored == 16
    assert Reason.BITS_EXCEEDED in header.notices


@pytest.mark.parametrize("syntax", [None, uid.RLELossless])
@pytest.mark.parametrize(("low", "high"), [(-8192, 8191), (-1000, 3095), (-5000, 0)])
def test_signed_pixels_that_go_on_above_bits_stored_are_read_whole(
    tmp_path, write_dicom, syntax, low, high
):
    stored = np.linspace(low, high, 60 * 800).astype(np.int16).reshape(60, 800)
    path = write_dicom(tmp_path / "a.dcm", stored, bits=12, compress=syntax)
    header, read = read_pixels(path)
    np.testing.assert_array_equal(signed_values(header)[read], stored)
    assert Reason.BITS_EXCEEDED in header.notices


@pytest.mark.parametrize("extended", [False, True])
def test_signed_pixels_within_bits_stored_are_read_with_or_without_their_sign_above(
    tmp_path, write_dicom, extended
):
    stored = (RAMP.astype(np.int32) - 2048).astype(np.int16)
    written = stored if extended else stored & 4095
    header, read = read_pixels(write_dicom(tmp_path / "a.dcm", written, bits=12))
    np.testing.assert_array_equal(signed_values(header)[read], stored)
    assert header.notices == frozenset()


@pytest.mark.parametrize(
    "syntax",
    # The JPEG-LS encoder used here writes 16 bits, which then do not include the sign.
    [uid.JPEG2000Lossless, uid.JPEGLosslessSV1, uid.HTJ2KLossless],
)
def test_a_signed_stream_of_more_bits_than_the_header_says_is_read_whole(
    tmp_path, write_dicom, syntax
):
    stored = (RAMP.astype(np.int32) - 2048).astype(np.int16)
    path = write_dicom(tmp_path / "a.dcm", stored, bits=12, compress=syntax)
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit = 10, 9
    dataset.save_as(path)
    header, read = read_pixels(path)
    np.testing.assert_array_equal(signed_values(header)[read], stored)
    assert Reason.BITS_EXCEEDED in header.notices


def test_values_that_lossy_coding_moves_beyond_the_range_are_set_to_its_end(tmp_path, write_dicom):
    # The encoder's error of up to 2 moves values at both ends beyond the range.
    stored = np.where(np.random.default_rng(0).random((60, 80)) < 0.5, 4095, RAMP // 4)
    path = write_dicom(tmp_path / "a.dcm", stored.astype("u2"), compress=uid.JPEGLSNearLossless)
    header, read = read_pixels(path)
    assert np.abs(read.astype(int) - stored).max() <= 2
    assert header.bits_stored == 12
    assert Reason.BITS_EXCEEDED not in header.notices


def test_signed_values_without_their_upper_bits_that_lossy_coding_moves_are_read(
    tmp_path, write_dicom
):
    # The encoder's error moves -1, written as 4095, to 0 or 1, which it writes as 4096 or 4097.
    # Steps of about half the range do not say whether the bits above these are values or flags.
    is_dark = np.random.default_rng(0).random((60, 80)) < 0.5
    stored = np.where(is_dark, -1, RAMP.astype(int) // 4 + 1024)
    path = write_dicom(
        tmp_path / "a.dcm", (stored & 4095).astype(np.uint16), compress=uid.JPEGLSNearLossless
    )
    dataset = pydicom.dcmread(path)
    dataset.PixelRepresentation = 1
    dataset.save_as(path)
    header, read = read_pixels(path)
    assert np.abs(signed_values(header)[read] - stored).max() <= 2
    assert header.notices == frozenset()


@pytest.mark.parametrize("says_signed", [False, True])
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("syntax", [None, uid.RLELossless, uid.JPEGLSLossless])
def test_pixels_of_another_sign_than_the_header_says_are_noticed(
    tmp_path, write_dicom, syntax, is_signed, says_signed
):
    # Every row crosses the middle of the range.
    stored = np.sort(RAMP, axis=None).reshape(80, 60).T.astype(np.int16)
    stored -= 2048 if is_signed else 0
    path = write_dicom(tmp_path / "a.dcm", stored & 0xFFF, bits=12, compress=syntax)
    dataset = pydicom.dcmread(path)
    dataset.PixelRepresentation = int(says_signed)
    dataset.save_as(path)
    found = read_pixels(path)[0].notices
    assert found == (frozenset() if is_signed == says_signed else {Reason.SIGN})


@pytest.mark.parametrize("edge", [0, 4095])
def test_a_sharp_edge_between_the_ends_of_the_range_is_no_sign(
    tmp_path, write_dicom, picture, edge
):
    stored = np.rint(picture(120, 80) * 4095).astype(np.uint16)
    stored[stored == 0] = 4095
    stored[5:15, 60:75:2] = edge
    path = write_dicom(tmp_path / "a.dcm", stored)
    assert read_pixels(path)[0].notices == frozenset()


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.HTJ2KLossless])
def test_a_stream_of_negative_values_under_a_header_without_sign_is_refused(
    tmp_path, write_dicom, syntax
):
    path = write_dicom(tmp_path / "a.dcm", RAMP.astype(np.int16) - 2048, compress=syntax)
    dataset = pydicom.dcmread(path)
    dataset.PixelRepresentation = 0
    dataset.save_as(path)
    with pytest.raises(Refusal) as refused:
        read_pixels(path)
    assert refused.value.reason is Reason.BITS
    path = write_dicom(tmp_path / "a.dcm", (RAMP // 2).astype(np.int16), compress=syntax)
    dataset = pydicom.dcmread(path)
    dataset.PixelRepresentation = 0
    dataset.save_as(path)
    np.testing.assert_array_equal(read_pixels(path)[1], RAMP // 2)


@pytest.mark.parametrize(
    "syntax",
    [uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1, uid.HTJ2KLossless],
)
def test_a_stream_of_more_bits_than_the_header_says_is_read_whole(tmp_path, write_dicom, syntax):
    path = write_dicom(tmp_path / "a.dcm", RAMP, bits=12, compress=syntax)
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit = 10, 9
    dataset.save_as(path)
    header, read = read_pixels(path)
    np.testing.assert_array_equal(read, RAMP)
    assert Reason.BITS_EXCEEDED in header.notices


# The bits of the stream, and the bits of the displayed range. Encoders may leave unused bits out.
PRECISIONS = [(10, 10), (9, 10), (8, 8)]
BY_PYDICOM = [uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.JPEG2000]
OF_FEWER_BITS = [uid.JPEGLosslessSV1, uid.JPEGLossless, *BY_PYDICOM]


def with_bits(path, bits: int):
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("syntax", OF_FEWER_BITS)
@pytest.mark.parametrize("says", [12, 14, 16])
@pytest.mark.parametrize(("precision", "depth"), PRECISIONS)
def test_a_stream_of_fewer_bits_than_the_header_says_is_shown_in_full_with_a_notice(
    tmp_path, write_dicom, syntax, says, precision, depth
):
    stored = RAMP >> (12 - precision)
    own = None if syntax in BY_PYDICOM else syntax
    path = write_dicom(tmp_path / "a.dcm", stored, bits=precision, compress=own)
    if syntax in BY_PYDICOM:
        more = {uid.JPEGLSNearLossless: {"jls_error": 1}, uid.JPEG2000: {"j2k_psnr": [90]}}
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax, **more.get(syntax, {}))
        dataset.save_as(path)
    read = read_pixels(with_bits(path, says))[1].astype(int)
    most = 1 if syntax in {uid.JPEGLSNearLossless, uid.JPEG2000} else 0
    assert np.abs(read - stored).max() <= most
    np.testing.assert_allclose(shown(path), read / ((1 << depth) - 1), atol=1e-6)
    canonical = canonical_image(*read_pixels(path), ClinicalSettings(height=60, width=80))
    assert Reason.BITS_UNUSED in canonical.notices


def test_a_stream_whose_bits_no_detector_has_below_the_headers_is_shown_as_the_header_says(
    tmp_path, write_dicom
):
    stored = RAMP >> 1
    path = write_dicom(tmp_path / "a.dcm", stored, bits=11, compress=uid.JPEGLosslessSV1)
    np.testing.assert_allclose(shown(with_bits(path, 12)), stored / 4095, atol=1e-6)
    canonical = canonical_image(*read_pixels(path), ClinicalSettings(height=60, width=80))
    assert Reason.BITS_UNUSED not in canonical.notices


def test_a_dark_image_is_shown_by_its_streams_bits_not_by_its_values(tmp_path, write_dicom):
    stored = RAMP >> 4
    path = write_dicom(tmp_path / "a.dcm", stored, bits=12, compress=uid.JPEGLosslessSV1)
    np.testing.assert_allclose(shown(with_bits(path, 16)), stored / 4095, atol=1e-6)


def test_a_window_decides_whatever_the_bits_of_a_stream(tmp_path, write_dicom):
    stored = RAMP >> 2
    window = {"WindowCenter": 1024, "WindowWidth": 2048}
    path = write_dicom(tmp_path / "a.dcm", stored, bits=10, compress=uid.JPEGLosslessSV1, **window)
    with_bits(path, 12)
    np.testing.assert_allclose(shown(path), stored / 2047, atol=1e-3)
    canonical = canonical_image(*read_pixels(path), ClinicalSettings(height=60, width=80))
    assert Reason.BITS_UNUSED not in canonical.notices


def test_a_signed_stream_of_fewer_bits_is_shown_in_full(tmp_path, write_dicom):
    stored = ((RAMP >> 2).astype(np.int32) - 512).astype(np.int16)
    path = write_dicom(tmp_path / "a.dcm", stored, bits=10, compress=uid.JPEG2000Lossless)
    for says in (12, 16):
        header, read = read_pixels(with_bits(path, says))
        np.testing.assert_array_equal(signed_values(header)[read], stored)
        np.testing.assert_allclose(shown(path), (stored + 512.0) / 1023, atol=1e-6)


def test_signed_values_of_twelve_bits_in_a_header_of_sixteen_are_shown_in_full(
    tmp_path, write_dicom
):
    stored = (RAMP.astype(np.int32) - 2048).astype(np.int16)
    path = write_dicom(tmp_path / "a.dcm", stored, bits=16)
    np.testing.assert_allclose(shown(path), RAMP / 4095, atol=1e-6)


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLossless])
@pytest.mark.parametrize("says", [12, 16])
def test_a_stream_of_fewer_bits_whose_highest_may_be_the_sign_is_refused(
    tmp_path, write_dicom, syntax, says
):
    stored = ((RAMP >> 2).astype(np.int32) - 512).astype(np.int16)
    path = write_dicom(tmp_path / "a.dcm", stored, bits=10, compress=syntax)
    with pytest.raises(Refusal) as refused:
        read_pixels(with_bits(path, says))
    assert refused.value.reason is Reason.BITS
    positive = (RAMP >> 3).astype(np.int16)
    path = write_dicom(tmp_path / "a.dcm", positive, bits=10, compress=syntax)
    np.testing.assert_array_equal(read_pixels(with_bits(path, says))[1], positive)


def test_flags_above_the_pixels_are_cut_off(tmp_path, write_dicom):
    flagged = RAMP.copy()
    flagged[10:30, 20:50] |= 0x8000
    path = write_dicom(tmp_path / "a.dcm", flagged, bits=12)
    header, read = read_pixels(path)
    np.testing.assert_array_equal(read, RAMP)
    assert header.bits_stored == 12


def test_flags_above_signed_pixels_without_their_sign_above_are_cut_off(tmp_path, write_dicom):
    stored = RAMP.astype(np.int32) - 2048
    stored[:, 40:60] = -2048  # a bar with hard edges
    stored[30:] = np.minimum(stored[30:], 500)
    flagged = (stored & 4095).astype(np.uint16)
    flagged[10:30, 20:50] |= 0x8000
    path = write_dicom(tmp_path / "a.dcm", flagged.view(np.int16), bits=12)
    header, read = read_pixels(path)
    np.testing.assert_array_equal(signed_values(header)[read], stored)
    assert header.bits_stored == 12


def test_pixels_that_may_be_signed_or_unsigned_are_refused(tmp_path, write_dicom):
    # From the lowest value to the highest in one step, which is equally large with and without the
    # bits above.
    stored = RAMP.astype(np.int32) - 2048
    stored[:, 40:60] = -2048
    flagged = (stored & 4095).astype(np.uint16)
    flagged[10:30, 20:50] |= 0x8000
    path = write_dicom(tmp_path / "a.dcm", flagged.view(np.int16), bits=12)
    with pytest.raises(Refusal) as refused:
        read_pixels(path)
    assert refused.value.reason is Reason.BITS


@pytest.mark.parametrize("compress", [None, uid.RLELossless])
@pytest.mark.parametrize(("keyword", "fewer"), [("Rows", 1), ("Rows", 20), ("Columns", 2)])
def test_data_of_a_row_more_than_the_header_says_are_refused(
    tmp_path, write_dicom, compress, keyword, fewer
):
    path = write_dicom(tmp_path / "a.dcm", RAMP, compress=compress)
    dataset = pydicom.dcmread(path)
    dataset[keyword].value -= fewer
    dataset.save_as(path)
    with pytest.raises(Refusal) as refused:
        read_pixels(path)
    assert refused.value.reason is Reason.DECODE


def test_an_rle_segment_larger_than_any_image_is_refused_before_it_is_decoded(
    tmp_path, write_dicom, monkeypatch
):
    path = write_dicom(tmp_path / "a.dcm", RAMP, compress=uid.RLELossless)
    dataset = pydicom.dcmread(path)
    segment = b"\x81\0" * 500_000  # 128 zeros each
    frame = b"".join(n.to_bytes(4, "little") for n in (2, 64, 64 + len(segment)))
    dataset.PixelData = encapsulate([frame.ljust(64, b"\0") + segment + segment])
    dataset.save_as(path)
    asked = []
    monkeypatch.setattr(pixels, "get_decoder", lambda syntax: asked.append(syntax))
    with pytest.raises(Refusal) as refused:
        read_pixels(path)
    assert refused.value.reason is Reason.DECODE
    assert asked == []


def test_the_lengths_of_all_fifteen_rle_segments_are_read():
    segments = [b"\x81\0" * n + b"\x02abc" + b"\x80" for n in range(15)]
    starts = 64 + np.cumsum([0, *map(len, segments[:-1])])
    header = b"".join(int(n).to_bytes(4, "little") for n in (15, *starts))
    # A run of 128 equal bytes, three different bytes, and no bytes.
    assert list(pixels._rle_lengths(header + b"".join(segments))) == [
        128 * n + 3 for n in range(15)
    ]


def test_empty_bytes_after_the_pixels_are_padding(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    dataset = pydicom.dcmread(path)
    dataset.PixelData += bytes(2048)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_pixels(path)[1], RAMP)


@pytest.mark.parametrize("value", [None, 2, 65535])
def test_pixels_that_may_be_signed_or_not_are_refused(tmp_path, write_dicom, value):
    path = write_dicom(tmp_path / "a.dcm", RAMP, PixelRepresentation=value)
    with pytest.raises(Refusal, match="PixelRepresentation") as refused:
        read_pixels(path)
    assert refused.value.reason is Reason.HEADER


def test_values_where_left_aligned_pixels_have_none_are_refused(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", RAMP, HighBit=15)
    with pytest.raises(Refusal) as refused:
        read_pixels(path)
    assert refused.value.reason is Reason.BITS


def test_a_window_that_is_not_used_keeps_no_image_out(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=[2048, 1000], WindowWidth=4096)
    np.testing.assert_allclose(shown(path, voi="none"), RAMP / 4095, atol=1e-6)
    assert Reason.MALFORMED in read_pixels(path)[0].notices
    with pytest.raises(Refusal) as refused:
        shown(path)
    assert refused.value.reason is Reason.WINDOW


def patched(path, old: bytes, new: bytes):
    content = path.read_bytes()
    assert len(old) == len(new)
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


def test_a_decimal_comma_in_a_spacing_is_read_as_a_number(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", RAMP, PixelSpacing=["0.07", "0.07"])
    patched(path, b"0.07\\0.07", b"0,07\\0,07")
    header, _ = read_pixels(path)
    assert header.spacing_mm == (0.07, 0.07)
    assert Reason.DECIMAL_COMMA in header.notices
    assert read_facts([path], "read")[0].spacing_mm == 0.07


@pytest.mark.parametrize("spacing", ["0.007", "70", "abcd"])
def test_a_spacing_that_no_mammogram_has_is_unknown(tmp_path, write_dicom, spacing):
    path = write_dicom(tmp_path / "a.dcm", RAMP, ImagerPixelSpacing=["0.123456", "0.123456"])
    padded = spacing.ljust(8).encode()
    patched(path, b"0.123456\\0.123456", padded + b"\\" + padded)
    header, _ = read_pixels(path)
    assert np.isnan(header.spacing_mm).all()
    assert {Reason.SPACING, Reason.MALFORMED} & header.notices


@pytest.mark.parametrize("keyword", ["Rows", "Columns"])
def test_one_header_without_a_size_takes_no_other_file_with_it(tmp_path, write_dicom, keyword):
    good = write_dicom(tmp_path / "good.dcm", RAMP)
    bad = write_dicom(tmp_path / "bad.dcm", RAMP)
    dataset = pydicom.dcmread(bad)
    setattr(dataset, keyword, 0)
    dataset.save_as(bad)
    found = read_facts([bad, good], "read")
    assert found[0] is None
    assert (found[1].rows, found[1].columns) == RAMP.shape
    with pytest.raises(Refusal) as refused:
        read_pixels(bad)
    assert refused.value.reason is Reason.HEADER


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian])
def test_a_header_of_three_megabytes_is_read(tmp_path, write_dicom, syntax):
    path = write_dicom(tmp_path / "a.dcm", RAMP, syntax=syntax)
    dataset = pydicom.dcmread(path)
    dataset.add_new(0x00090010, "LO", "ACME")
    dataset.add_new(0x00091001, "OB", np.random.default_rng(0).bytes(3 << 20))
    dataset.save_as(path)
    facts = read_facts([path], "read")[0]
    assert (facts.rows, facts.columns) == RAMP.shape


@pytest.mark.parametrize(
    ("text", "years"),
    [
        *((text, 60) for text in AT_SIXTY),
        *((text, None) for text in ("000Y", "999Y", "-01Y", "052W", "")),
    ],
)
def test_an_age_is_read_in_every_form_or_unknown(text, years):
    assert age_in_years(text) == years


def test_a_text_that_is_no_age_is_refused():
    for text in ("abc", "60 years", "60 or so"):
        with pytest.raises(ValueError):
            age_in_years(text)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "POST_CONTRAST", "SUBTRACTION"]}, Reason.CONTRAST),
        ({"ImageType": ["DERIVED", "PRIMARY", "", "RECOMBINED"]}, Reason.CONTRAST),
        ({"ContrastBolusAgent": "Iohexol"}, Reason.CONTRAST),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "", "LOW_ENERGY"]}, Reason.LOW_ENERGY),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "STEREO_SCOUT"]}, Reason.STEREO),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "SPECIMEN"]}, Reason.SPECIMEN),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "GALACTOGRAPHY"]}, Reason.DUCTOGRAM),
        ({"PaddleDescription": "Biopsy 5x5"}, Reason.BIOPSY),
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage}, Reason.SECONDARY_CAPTURE),
        ({"DetectorType": "FILM"}, Reason.DIGITISED_FILM),
    ],
)
def test_special_acquisitions_are_recognised(tmp_path, write_dicom, elements, reason):
    path = write_dicom(tmp_path / "a.dcm", RAMP, **elements)
    assert read_pixels(path)[0].acquisition.special == {reason}


@pytest.mark.parametrize(
    ("stored", "window", "noticed"),
    [
        (RAMP, {"WindowCenter": 4094, "WindowWidth": 2}, True),  # nearly all black
        (RAMP, {"WindowCenter": 2, "WindowWidth": 2}, True),  # nearly all white
        (RAMP, {"WindowCenter": 2048, "WindowWidth": 2}, True),
        (RAMP, {"WindowCenter": 2048, "WindowWidth": 2000}, False),
        (RAMP // 2048 * 4095, {}, False),
    ],
)
def test_an_image_whose_values_lie_outside_its_window_is_noticed(
    tmp_path, write_dicom, stored, window, noticed
):
    path = write_dicom(tmp_path / "a.dcm", stored, **window)
    canonical = canonical_image(*read_pixels(path), ClinicalSettings(height=60, width=80))
    assert (Reason.BESIDE_WINDOW in canonical.notices) == noticed


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
def test_a_table_of_more_than_32767_entries_is_read_beside_signed_pixels(
    tmp_path, write_dicom, lut_item, syntax
):
    # Without a VR in the file, the number of entries looks signed, like the pixels.
    values = np.arange(40_000)
    item = lut_item(values, -20_000, 16, vr="OW")
    stored = (np.linspace(0, 39_999, 4800).astype(np.int32) - 20_000).astype(np.int16)
    path = write_dicom(
        tmp_path / "a.dcm",
        stored.reshape(60, 80),
        bits=16,
        syntax=syntax,
        VOILUTSequence=Sequence([item]),
    )
    expected = (stored.reshape(60, 80).astype(float) + 20_000) / 65_535
    np.testing.assert_allclose(shown(path), expected, atol=1e-6)
