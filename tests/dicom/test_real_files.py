"""Every file of the pydicom and pydicom-data wheels gives pydicom's pixels or is refused."""

from __future__ import annotations

from pathlib import Path

import data_store
import numpy as np
import pydicom
import pytest

from mammo_sae.dicom.canonical import canonical_image
from mammo_sae.dicom.pixels import display_values, read_pixels, signed_values
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import ClinicalSettings

FOLDERS = {
    "pydicom": Path(pydicom.__file__).parent / "data" / "test_files",
    "pydicom-data": Path(data_store.__file__).parent / "data",
}
# Files that are not named here must be decoded. A trailing * matches any ending.
REFUSED = {
    "pydicom": {
        Reason.COLOUR: """
            ExplVR_BigEnd.dcm GDCMJ2K_TextGBR.dcm SC_jpeg_* SC_rgb_dcmtk_* SC_rgb_gdcm_KY.dcm
            SC_rgb_jls_* SC_rgb_jpeg* SC_rgb_rle.dcm SC_rgb_rle_16bit.dcm SC_rgb_rle_32bit.dcm
            SC_rgb_small_* SC_ybr_full_422_uncompressed.dcm examples_jpeg2k.dcm
            examples_palette.dcm examples_rgb_color.dcm meta_missing_tsyntax.dcm
            nested_priv_SQ.dcm""",
        Reason.MULTI_FRAME: """
            SC_rgb_rle_16bit_2frame.dcm SC_rgb_rle_2frame.dcm SC_rgb_rle_32bit_2frame.dcm
            examples_ybr_color.dcm rtdose.dcm rtdose_expb.dcm rtdose_rle.dcm""",
        # 1 or 32 bits allocated.
        Reason.BITS: """
            liver_1frame.dcm liver_expb_1frame.dcm rtdose_1frame.dcm rtdose_expb_1frame.dcm
            rtdose_rle_1frame.dcm""",
        # Directories, plans, reports, waveforms, and files without pixels.
        Reason.NO_PIXELS: """
            UN_sequence.dcm dicomdirtests/DICOMDIR* dicomdirtests/TINY_ALPHA/DICOMDIR
            dicomdirtests/TINY_ALPHA/PT000000/ST000000/SE000000/IM* empty_charset_LEI.dcm
            no_meta_group_length.dcm priv_SQ.dcm reportsi.dcm reportsi_with_empty_number_tags.dcm
            rtplan.dcm rtplan_truncated.dcm test-SR.dcm waveform_ecg.dcm""",
        # These files have neither preamble nor file meta information, so their type is unknown.
        Reason.NOT_IMAGE: """
            ExplVR_BigEndNoMeta.dcm ExplVR_LitEndNoMeta.dcm no_meta.dcm rtstruct.dcm
            dicomdirtests/TINY_ALPHA/README""",
        Reason.HEADER: "badVR.dcm",
        Reason.TRUNCATED: "MR_truncated.dcm",
        # No decoder of pydicom reads them.
        Reason.DECODE: "JPEG-lossy.dcm JPEG2000-embedded-sequence-delimiter.dcm",
    },
    "pydicom-data": {
        Reason.COLOUR: """
            OBXXXX1A.dcm OBXXXX1A_expb.dcm OBXXXX1A_rle.dcm SC_rgb.dcm SC_rgb_16bit.dcm
            SC_rgb_32bit.dcm SC_rgb_dcmtk_* SC_rgb_expb.dcm SC_rgb_expb_16bit.dcm
            SC_rgb_expb_32bit.dcm SC_rgb_gdcm2k_uncompressed.dcm SC_ybr_full_uncompressed.dcm
            US1_* color-pl.dcm color-px.dcm gdcm-US-ALOKA-*""",
        Reason.MULTI_FRAME: """
            OBXXXX1A_2frame.dcm OBXXXX1A_expb_2frame.dcm OBXXXX1A_rle_2frame.dcm
            SC_rgb_16bit_2frame.dcm SC_rgb_2frame.dcm SC_rgb_32bit_2frame.dcm
            SC_rgb_expb_16bit_2frame.dcm SC_rgb_expb_2frame.dcm SC_rgb_expb_32bit_2frame.dcm
            color3d_jpeg_baseline.dcm eCT_Supplemental.dcm emri_small.dcm emri_small_RLE.dcm
            emri_small_big_endian.dcm emri_small_jpeg_2k_lossless.dcm
            emri_small_jpeg_ls_lossless.dcm liver.dcm liver_expb.dcm""",
        Reason.NOT_IMAGE: "OT-PAL-8-face.dcm",
        Reason.TRUNCATED: "emri_small_jpeg_2k_lossless_too_short.dcm",
    },
}


def dicom_files(folder: Path) -> dict[str, Path]:
    """The files whose names say that they are DICOM, by path below `folder`."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix in {"", ".dcm"})
    return {path.relative_to(folder).as_posix(): path for path in sorted(paths)}


def expected(wheel: str, files: dict[str, Path]) -> dict[str, Reason]:
    """Return the reason of every file that must be refused."""
    found = {}
    for reason, names in REFUSED[wheel].items():
        for pattern in names.split():
            matches = [
                name
                for name in files
                if name == pattern or (pattern[-1] == "*" and name.startswith(pattern[:-1]))
            ]
            assert matches, f"{wheel} no longer holds {pattern}"
            found.update(dict.fromkeys(matches, reason))
    return found


@pytest.mark.filterwarnings("ignore")  # pydicom's warnings about the purpose of these files
@pytest.mark.parametrize("wheel", FOLDERS)
def test_every_file_gives_the_values_that_pydicom_gives_or_the_right_reason(wheel):
    files = dicom_files(FOLDERS[wheel])
    refused, wrong = {}, []
    for name, path in files.items():
        try:
            header, read = read_pixels(path)
        except Refusal as refusal:
            refused[name] = refusal.reason
            continue
        if not np.array_equal(signed_values(header)[read], pydicom.dcmread(path).pixel_array):
            wrong.append(name)
    assert wrong == []
    assert refused == expected(wheel, files)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wheel", FOLDERS)
def test_every_file_that_decodes_becomes_a_canonical_image(wheel):
    files = dicom_files(FOLDERS[wheel])
    blank = set()
    for name in files.keys() - expected(wheel, files).keys():
        try:
            canonical = canonical_image(*read_pixels(files[name]), ClinicalSettings())
        except Refusal as refusal:
            assert refusal.reason is Reason.BLANK
            blank.add(name)
            continue
        assert canonical.pixels.max() > canonical.pixels.min(), name
    # Scout images whose window lies below all of their values.
    scouts = {f"dicomdirtests/77654033/CT2/{number}" for number in (17166, 17196)}
    assert blank == (scouts if wheel == "pydicom" else set())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["mlut_18.dcm", "vlut_04.dcm"])
def test_lookup_tables_of_real_files_are_applied_as_pydicom_applies_them(name):
    path = FOLDERS["pydicom-data"] / name
    header, read = read_pixels(path)
    dataset = pydicom.dcmread(path)
    values = pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset)
    shown = display_values(header)[read]
    if name == "vlut_04.dcm":
        assert header.voi_luts
        values = pydicom.pixels.apply_voi(values, dataset)
        np.testing.assert_allclose(shown, values / (2.0 ** header.voi_luts[0].bits - 1), atol=1e-6)
    else:
        assert header.modality_lut is not None
        np.testing.assert_allclose(shown, values / (2.0**header.modality_lut.bits - 1), atol=1e-6)
