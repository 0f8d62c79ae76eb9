"""A phantom image in every possible encoding of a mammogram gives one canonical image."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Sequence, uid

from mammo_sae.dicom.canonical import canonical_image
from mammo_sae.dicom.pixels import read_pixels, signed_values
from mammo_sae.dicom.settings import ClinicalSettings, MammoClipSettings
from mammo_sae.phantom.image import render
from mammo_sae.phantom.plan import plan_patient
from mammo_sae.phantom.settings import PhantomSettings

HEIGHT, WIDTH = 96, 64
BITS, LEVELS = 12, 1 << 12
CENTER, WINDOW = 2000.0, 1500.0
NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
LOSSLESS = (
    *NATIVE,
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
)
# Lossy coding at high quality: the largest error in stored values, of the window's 1500.
OFF = {
    uid.JPEGExtended12Bit: 2,
    uid.JPEGLSNearLossless: 2,  # the error bound with which the stream was written
    uid.JPEG2000: 3,
    uid.HTJ2K: 2,
}
LOSSY = tuple(OFF)
TOLERANCE = 2  # grey levels
VOI = (
    "LINEAR",
    "LINEAR_EXACT",
    "SIGMOID",
    "second window",
    "VOI LUT",
    "8-bit VOI LUT",
    "modality LUT",
    "none",
)


@pytest.fixture(scope="module", params=["L", "R"])
def grey(request) -> np.ndarray:
    """Grey levels of a phantom image [H, W], of 255.

    A sigmoid reaches neither end of the range, so none of them is used.
    """
    part = PhantomSettings(height=HEIGHT, width=WIDTH, breasts="both").part("training")
    image = render(part, plan_patient(part, 0), request.param, "MLO")
    return np.clip(np.rint(image.display * 255), 5, 250)


def coded(grey: np.ndarray, voi: str, photometric: str, signed: bool, lut_item):
    """Return the stored values that are displayed as `grey`, and the elements of this display."""
    shown = 1 - grey / 255 if photometric == "MONOCHROME1" else grey / 255
    elements: dict[str, object] = {
        "PhotometricInterpretation": photometric,
        "PresentationLUTShape": "INVERSE" if photometric == "MONOCHROME1" else "IDENTITY",
    }
    intercept = LEVELS // 2 if signed else 0
    if voi in {"VOI LUT", "8-bit VOI LUT"}:
        # The curve is not linear, so that a table that is left out or applied twice changes the
        # image.
        bits = 8 if voi == "8-bit VOI LUT" else 12
        table = np.rint((np.arange(3001) / 3000) ** 2 * ((1 << bits) - 1))
        values = 300 + np.searchsorted(table, np.rint(shown * ((1 << bits) - 1)))
        elements["VOILUTSequence"] = Sequence([lut_item(table, 300, bits)])
    elif voi == "modality LUT":
        # The table inverts the stored value, and replaces slope and intercept.
        table = np.arange(LEVELS)[::-1]
        values = LEVELS - 1 - np.rint(shown * (LEVELS - 1))
        first = -intercept
        elements["ModalityLUTSequence"] = Sequence([lut_item(table, first, BITS)])
        elements |= {"WindowCenter": LEVELS / 2, "WindowWidth": LEVELS}
    elif voi == "none":
        values = shown * (LEVELS - 1)
    else:
        function = "LINEAR" if voi == "second window" else voi
        values = {
            "LINEAR": (shown - 0.5) * (WINDOW - 1) + CENTER - 0.5,
            "LINEAR_EXACT": (shown - 0.5) * WINDOW + CENTER,
            "SIGMOID": CENTER - WINDOW / 4 * np.log(1 / shown - 1),
        }[function]
        first = [7.0] if voi == "second window" else []
        elements |= {
            "WindowCenter": [*first, CENTER],
            "WindowWidth": [*first, WINDOW],
            "VOILUTFunction": function,
        }
    if voi != "modality LUT":
        elements |= {"RescaleSlope": 1, "RescaleIntercept": intercept}
    stored = np.rint(values - intercept).astype(np.int16 if signed else np.uint16)
    return stored, elements


def canonical(path, voi: str) -> np.ndarray:
    # At the image's own size nothing is resampled, so that grey levels can be compared exactly.
    settings = ClinicalSettings(height=HEIGHT, width=WIDTH, voi_index=int(voi == "second window"))
    return canonical_image(*read_pixels(path), settings).pixels


def as_shown(grey: np.ndarray) -> np.ndarray:
    """Return the expected canonical image of `grey`, with the breast on the left."""
    return grey if grey[:, : WIDTH // 2].mean() > grey[:, WIDTH // 2 :].mean() else grey[:, ::-1]


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("voi", VOI)
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_every_lossless_coding_is_read_back_exactly(
    tmp_path, write_dicom, lut_item, grey, syntax, voi, photometric, signed
):
    stored, elements = coded(grey, voi, photometric, signed, lut_item)
    how = {"syntax": syntax} if syntax in NATIVE else {"compress": syntax}
    path = write_dicom(tmp_path / "a.dcm", stored, bits=BITS, **how, **elements)
    np.testing.assert_array_equal(canonical(path, voi), as_shown(grey))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("voi", VOI)
@pytest.mark.parametrize(
    ("syntax", "signed"),
    # Baseline and extended JPEG contain only unsigned values (PS3.5, table 8.2.1-1).
    [(uid.JPEGExtended12Bit, False), *((s, sign) for s in LOSSY[1:] for sign in (False, True))],
    ids=lambda value: getattr(value, "keyword", {False: "unsigned", True: "signed"}.get(value)),
)
def test_every_lossy_coding_is_read_back_within_its_tolerance(
    tmp_path, write_dicom, lut_item, grey, syntax, voi, photometric, signed
):
    stored, elements = coded(grey, voi, photometric, signed, lut_item)
    path = write_dicom(tmp_path / "a.dcm", stored, bits=BITS, compress=syntax, **elements)
    header, read = read_pixels(path)
    off = np.abs(signed_values(header)[read] - stored)
    assert 0 < off.max() <= OFF[syntax]
    assert np.abs(canonical(path, voi).astype(int) - as_shown(grey)).max() <= TOLERANCE


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_8_bit_jpeg_is_read_back_within_its_tolerance(tmp_path, write_dicom, grey, photometric):
    stored = (255 - grey if photometric == "MONOCHROME1" else grey).astype(np.uint8)
    path = write_dicom(
        tmp_path / "a.dcm",
        stored,
        bits=8,
        compress=uid.JPEGBaseline8Bit,
        PhotometricInterpretation=photometric,
    )
    assert np.abs(canonical(path, "none").astype(int) - as_shown(grey)).max() <= TOLERANCE


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_mammo_clip_s_image_does_not_depend_on_the_lossless_coding(
    tmp_path, write_dicom, grey, syntax, photometric
):
    stored = np.rint(grey * 16).astype(np.uint16)
    images = []
    for number, one in enumerate((syntax, uid.ExplicitVRLittleEndian)):
        path = write_dicom(
            tmp_path / f"{number}.dcm",
            stored,
            PhotometricInterpretation=photometric,
            **({"syntax": one} if one in NATIVE else {"compress": one}),
        )
        settings = MammoClipSettings(height=HEIGHT, width=WIDTH)
        images.append(canonical_image(*read_pixels(path), settings).pixels)
    np.testing.assert_array_equal(*images)
