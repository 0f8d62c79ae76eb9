from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset, Sequence, uid
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts
from pydicom.sr._snomed_dict import mapping

from mammo_sae.dicom.acquisition import IMPLANT_DISPLACED, PARTIAL, SPECIMEN, VIEWS, WHOLE
from mammo_sae.dicom.canonical import canonical_image
from mammo_sae.dicom.pixels import read_pixels
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import ClinicalSettings, TriageSettings
from mammo_sae.dicom.triage import Expected, judge_header, judge_image

SRT = mapping["SRT"]
LEFT_CC = Expected(side="L", view="CC")
WARN = TriageSettings(
    **dict.fromkeys((r.code for r in Reason if r.code in TriageSettings.model_fields), "warn")
)


def view_code(code: str, modifier: str | None = None) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "SCT", "x"
    if modifier is not None:
        part = Dataset()
        part.CodeValue, part.CodingSchemeDesignator, part.CodeMeaning = modifier, "SCT", "x"
        item.ViewModifierCodeSequence = Sequence([part])
    return Sequence([item])


@pytest.fixture
def header(tmp_path, write_dicom):
    def read(**elements):
        path = write_dicom(tmp_path / "a.dcm", np.eye(8, dtype=np.uint16), **elements)
        return read_pixels(path)[0]

    return read


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {
            "ImageLaterality": "L",
            "ViewPosition": "CC",
            "PresentationIntentType": "FOR PRESENTATION",
        },
        {"ViewCodeSequence": view_code("399162004"), "Laterality": "L"},
        {"ViewCodeSequence": view_code("R-10242"), "ImageLaterality": "L", "Laterality": "L"},
        {"ViewCodeSequence": view_code("399162004", "399226006")},
        {"PatientOrientation": ["A", "R"], "SeriesDescription": "L-CC Routine"},
        {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": -1},
        {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "HU"},
        {"SeriesDescription": "R MLO, L MLO, L CC"},
        {"SeriesDescription": "REAL CCD"},
        {"EstimatedRadiographicMagnificationFactor": 1.08, "BreastImplantPresent": "NO"},
    ],
)
def test_a_plain_mammogram_raises_nothing(header, elements):
    assert judge_header(header(**elements), LEFT_CC, WARN) == []


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Modality": "CR"}, Reason.MODALITY),
        ({"PresentationIntentType": "FOR PROCESSING"}, Reason.FOR_PROCESSING),
        (
            {"SOPClassUID": uid.DigitalMammographyXRayImageStorageForProcessing},
            Reason.FOR_PROCESSING,
        ),
        ({"SOPClassUID": uid.BreastTomosynthesisImageStorage}, Reason.TOMOSYNTHESIS),
        (
            {"SOPClassUID": uid.BreastProjectionXRayImageStorageForPresentation},
            Reason.TOMOSYNTHESIS,
        ),
        ({"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS"]}, Reason.TOMOSYNTHESIS),
        ({"ViewPosition": "MLO"}, Reason.VIEW),
        ({"ViewPosition": "ML"}, Reason.VIEW),
        ({"ViewCodeSequence": view_code("399368009")}, Reason.VIEW),
        ({"ViewCodeSequence": view_code("399260004")}, Reason.VIEW),
        ({"ViewCodeSequence": view_code("R-1024A")}, Reason.VIEW),
        ({"ViewCodeSequence": view_code("127457009")}, Reason.SPECIMEN),
        ({"AnatomicRegionSequence": view_code("G-8310")}, Reason.SPECIMEN),
        ({"ImageLaterality": "L", "Laterality": "R"}, Reason.AMBIGUOUS),
        ({"ImageLaterality": "L", "SeriesDescription": "RCC"}, Reason.AMBIGUOUS),
        ({"ViewPosition": "CC", "SeriesDescription": "L MLO"}, Reason.AMBIGUOUS),
        ({"ViewPosition": "CC", "ViewCodeSequence": view_code("399368009")}, Reason.AMBIGUOUS),
        ({"PatientOrientation": ["A", "L"]}, Reason.ORIENTATION),
        ({"PatientOrientation": ["P", "L"], "ImageLaterality": "L"}, Reason.ORIENTATION),
        ({"PatientOrientation": ["A", "HL"]}, Reason.ORIENTATION),
        ({"PixelIntensityRelationship": "LIN"}, Reason.LINEAR),
        ({"PixelSpacing": [0.05, 0.1]}, Reason.SPACING),
        ({"PixelAspectRatio": [2, 1]}, Reason.SPACING),
        ({"ImageLaterality": "R"}, Reason.SIDE),
        ({"Laterality": "R"}, Reason.SIDE),
        ({"ViewCodeSequence": view_code("399162004", "399055006")}, Reason.PARTIAL_VIEW),
        ({"ViewCodeSequence": view_code("399162004", "399163009")}, Reason.PARTIAL_VIEW),
        ({"ViewCodeSequence": view_code("399162004", "R-102C2")}, Reason.PARTIAL_VIEW),
        ({"ViewCodeSequence": view_code("399162004", "399011000")}, Reason.PARTIAL_VIEW),
        ({"PaddleDescription": "10CM MAG"}, Reason.PARTIAL_VIEW),
        ({"PaddleDescription": "Spot contact"}, Reason.PARTIAL_VIEW),
        ({"EstimatedRadiographicMagnificationFactor": 1.8}, Reason.PARTIAL_VIEW),
        ({"ViewCodeSequence": view_code("399162004", "399209000")}, Reason.IMPLANT_DISPLACED),
        ({"BreastImplantPresent": "YES"}, Reason.IMPLANT),
        ({"PresentationLUTShape": "INVERSE"}, Reason.PRESENTATION),
    ],
)
def test_each_trap_has_its_reason_and_policy(header, elements, reason):
    found = header(**elements)
    assert judge_header(found, LEFT_CC, WARN) == [reason]
    refusing = WARN.model_copy(update={reason.code: "refuse"})
    with pytest.raises(Refusal) as refused:
        judge_header(found, LEFT_CC, refusing)
    assert refused.value.reason is reason
    accepting = WARN.model_copy(update={reason.code: "accept"})
    assert judge_header(found, LEFT_CC, accepting) == [reason]


def codes_of(code: str) -> str:
    """The SNOMED CT code of a code of either scheme."""
    return SRT.get(code, code)


def context_group(number: int) -> dict[str, str]:
    """The codes of a context group of PS3.16 and their meanings in pydicom's dictionary."""
    found = {}
    for scheme, names in cid_concepts[number].items():
        for name in names:
            for code, (meaning, groups) in concepts[scheme][name].items():
                if number in groups:
                    found[code] = meaning.lower()
    return found


def test_views_and_modifiers_have_the_codes_of_the_standard():
    views, modifiers = context_group(4014), context_group(4015)
    meanings = {
        "CC": "cranio-caudal",
        "MLO": "medio-lateral oblique",
        "ML": "medial-lateral",
        "LM": "latero-medial",
        "LMO": "latero-medial oblique",
        "FB": "caudo-cranial",
        "SIO": "superolateral to inferomedial oblique",
        "ISO": "inferomedial to superolateral oblique",
        "XCCL": "cranio-caudal exaggerated laterally",
        "XCCM": "cranio-caudal exaggerated medially",
    }
    ours = {**VIEWS, "specimen": SPECIMEN}
    known = {views[codes_of(code)]: name for name, codes in ours.items() for code in codes}
    assert known == {
        **{meaning: name for name, meaning in meanings.items()},
        "tissue specimen from breast": "specimen",
    }
    assert set(views.values()) == set(known)
    ours = {**PARTIAL, **WHOLE, "implant displaced": IMPLANT_DISPLACED}
    assert {modifiers[codes_of(code)] for codes in ours.values() for code in codes} == set(ours)
    assert set(modifiers.values()) == set(ours)


def test_every_code_is_known_in_both_schemes():
    for group in (VIEWS, PARTIAL, WHOLE):
        for codes in group.values():
            assert len(codes) == 2
            assert len({codes_of(code) for code in codes}) == 1


@pytest.mark.parametrize("along", ["A", "P"])
@pytest.mark.parametrize("side", ["L", "R"])
def test_an_orientation_that_the_pixels_contradict_is_noticed(
    tmp_path, write_dicom, picture, side, along
):
    stored = np.rint(picture(side=side) * 4095).astype(np.uint16)
    across = "R" if side == "L" else "L"
    path = write_dicom(tmp_path / "a.dcm", stored, PatientOrientation=[along, across])
    header, read = read_pixels(path)
    canonical = canonical_image(header, read, ClinicalSettings(height=60, width=40))
    contradicts = (along == "A") != (side == "L")
    assert (Reason.ORIENTATION in canonical.notices) == contradicts
    expected = [Reason.ORIENTATION] if contradicts else []
    assert judge_image(canonical, Expected(side, "CC"), WARN) == expected
    assert judge_header(header, Expected(side, "CC"), WARN) == []


@pytest.mark.parametrize("side", ["L", "R"])
def test_a_breast_on_the_unexpected_side_is_noticed(tmp_path, write_dicom, picture, side):
    stored = np.rint(picture(side=side) * 4095).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored)
    canonical = canonical_image(*read_pixels(path), ClinicalSettings(height=60, width=40))
    other = "R" if side == "L" else "L"
    assert judge_image(canonical, Expected(side, "CC"), WARN) == []
    assert judge_image(canonical, Expected(other, "CC"), WARN) == [Reason.MIRRORED]


def test_an_image_without_a_breast_is_noticed(tmp_path, write_dicom):
    stored = np.zeros((120, 80), np.uint16)
    stored[3, 4] = 4000
    path = write_dicom(tmp_path / "a.dcm", stored)
    settings = ClinicalSettings(height=120, width=80)
    canonical = canonical_image(*read_pixels(path), settings)
    assert judge_image(canonical, LEFT_CC, WARN) == [Reason.NO_BREAST]


def test_every_policy_has_a_reason_and_fatal_reasons_have_none():
    policies = set(TriageSettings.model_fields) - {"most_refused"}
    codes = {reason.code for reason in Reason}
    assert policies < codes
    assert {"decode", "truncated", "unreadable", "multi_frame"} <= codes - policies
