from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset, Sequence, uid

from mammo_sae.dicom.canonical import canonical_image
from mammo_sae.dicom.pixels import read_pixels
from mammo_sae.dicom.refusal import Reason, Refusal
from mammo_sae.dicom.settings import ClinicalSettings, TriageSettings
from mammo_sae.dicom.triage import Expected, judge_header, judge_image

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
        {"ViewCodeSequence": view_code("R-10242"), "ImageLaterality": "L", "Laterality": "R"},
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
        ({"ImageLaterality": "R"}, Reason.SIDE),
        ({"Laterality": "R"}, Reason.SIDE),
        ({"ViewCodeSequence": view_code("399162004", "399055006")}, Reason.PARTIAL_VIEW),
        ({"ViewCodeSequence": view_code("399162004", "399163009")}, Reason.PARTIAL_VIEW),
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
