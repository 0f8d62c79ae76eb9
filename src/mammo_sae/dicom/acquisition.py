"""How an image was taken, as far as its header says: what triage judges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.uid import (
    BreastProjectionXRayImageStorageForPresentation,
    BreastProjectionXRayImageStorageForProcessing,
    BreastTomosynthesisImageStorage,
    DigitalMammographyXRayImageStorageForProcessing,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from mammo_sae.dicom.elements import Elements
from mammo_sae.dicom.refusal import Reason

READ = (
    "AcquisitionDeviceProcessingDescription",
    "AnatomicRegionSequence",
    "BreastImplantPresent",
    "ContrastBolusAgent",
    "ConversionType",
    "DetectorType",
    "EstimatedRadiographicMagnificationFactor",
    "ImageLaterality",
    "ImageType",
    "Laterality",
    "Modality",
    "PaddleDescription",
    "PresentationIntentType",
    "SOPClassUID",
    "SOPInstanceUID",
    "ViewCodeSequence",
    "ViewPosition",
)
"""Keywords of the elements that are read for this."""

# PS3.16 CID 4014 and 4015: SNOMED CT codes, and the older SRT codes that many files hold.
VIEWS = {"399162004": "CC", "R-10242": "CC", "399368009": "MLO", "R-10226": "MLO"}
SPOT = {"399055006", "R-102D7"}
MAGNIFICATION = {"399163009", "R-102D6"}
IMPLANT_DISPLACED = {"399209000", "R-102D5"}

FOR_PROCESSING = {
    DigitalMammographyXRayImageStorageForProcessing,
    BreastProjectionXRayImageStorageForProcessing,
}
TOMOSYNTHESIS = {
    BreastTomosynthesisImageStorage,
    BreastProjectionXRayImageStorageForPresentation,
    BreastProjectionXRayImageStorageForProcessing,
}

SECONDARY_CAPTURE = {
    SecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
}
SPECIMEN = {"127457009", "G-8310"}  # tissue specimen from breast

# Parts of the words by which ImageType and the device's own description tell an image's kind.
WORDS = {
    Reason.CONTRAST: ("SUBTRACT", "RECOMBINED", "POST_CONTRAST", "POST CONTRAST", "CESM", "CEDM"),
    Reason.LOW_ENERGY: ("LOW_ENERGY", "LOW ENERGY"),
    Reason.STEREO: ("STEREO",),
    Reason.SPECIMEN: ("SPECIMEN",),
    Reason.DUCTOGRAM: ("DUCTO", "GALACTO"),
    Reason.BIOPSY: ("BIOPSY", "LOCALIZATION", "LOCALISATION", "WIRE"),
}

MAGNIFIED = 1.4  # magnification views are taken at 1.5 to 2; contact views at 1.0 to 1.1


@dataclass(frozen=True)
class Acquisition:
    """How one image was taken; None or False where the header does not say.

    `uid` identifies the file and is compared only, never written.
    `special` says what else than a plain mammogram it is.
    """

    uid: str
    modality: str | None
    for_processing: bool
    tomosynthesis: bool
    side: str | None
    view: str | None
    partial: bool
    implant: bool
    implant_displaced: bool
    special: frozenset[Reason] = frozenset()


def read_acquisition(elements: Elements) -> Acquisition:
    """Read how the image with these `elements` was taken."""
    modifiers = set(_modifiers(elements))
    paddle = elements.text("PaddleDescription") or ""
    sop_class = elements.text("SOPClassUID")
    return Acquisition(
        uid=elements.text("SOPInstanceUID") or "",
        modality=elements.text("Modality"),
        for_processing=elements.text("PresentationIntentType") == "FOR PROCESSING"
        or sop_class in FOR_PROCESSING,
        # Some devices store slices and syntheses, one frame each, as plain mammograms.
        tomosynthesis=sop_class in TOMOSYNTHESIS or "TOMO" in (elements.text("ImageType") or ""),
        # ImageLaterality is the image's own; Laterality is its series'.
        side=_side(elements, "ImageLaterality") or _side(elements, "Laterality"),
        view=_view(elements),
        partial=bool(modifiers & (SPOT | MAGNIFICATION))
        or "SPOT" in paddle
        or "MAG" in paddle
        or _magnification(elements) >= MAGNIFIED,
        implant=elements.text("BreastImplantPresent") == "YES",
        implant_displaced=bool(modifiers & IMPLANT_DISPLACED),
        special=frozenset(_special(elements)),
    )


def _special(elements: Elements) -> Iterator[Reason]:
    kind = elements.text("ImageType") or ""
    description = elements.text("AcquisitionDeviceProcessingDescription") or ""
    paddle = elements.text("PaddleDescription") or ""
    found = {reason for reason, words in WORDS.items() if _has(f"{kind}\\{description}", words)}
    if _has(paddle, WORDS[Reason.BIOPSY]):
        found.add(Reason.BIOPSY)
    regions = {
        Elements(item).text("CodeValue") for item in elements.items("AnatomicRegionSequence")
    }
    if regions & SPECIMEN:
        found.add(Reason.SPECIMEN)
    if elements.text("ContrastBolusAgent") not in {None, "NONE", "NO"}:
        found.add(Reason.CONTRAST)
    # The low-energy image of a contrast examination looks like a plain mammogram; what is computed
    # from it and the high-energy one does not.
    if Reason.LOW_ENERGY in found:
        if _has(kind, ("SUBTRACT", "RECOMBINED")):
            found.discard(Reason.LOW_ENERGY)
        else:
            found.discard(Reason.CONTRAST)
    if elements.text("SOPClassUID") in SECONDARY_CAPTURE:
        found.add(Reason.SECONDARY_CAPTURE)
    if elements.text("ConversionType") in {"DF", "SD"} or elements.text("DetectorType") == "FILM":
        found.add(Reason.DIGITISED_FILM)
    yield from found


def _has(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)


def _side(elements: Elements, keyword: str) -> str | None:
    value = elements.text(keyword)
    return value if value in {"L", "R"} else None


def _view(elements: Elements) -> str | None:
    position = elements.text("ViewPosition")
    if position:
        return position
    codes = (Elements(item).text("CodeValue") for item in elements.items("ViewCodeSequence"))
    return next((VIEWS[code] for code in codes if code in VIEWS), None)


def _modifiers(elements: Elements) -> Iterator[str]:
    for view in elements.items("ViewCodeSequence"):
        for item in Elements(view).items("ViewModifierCodeSequence"):
            yield Elements(item).text("CodeValue") or ""


def _magnification(elements: Elements) -> float:
    return elements.number("EstimatedRadiographicMagnificationFactor") or 1.0
