"""How an image was taken, according to its header; triage judges by this."""

from __future__ import annotations

import re
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
    "PatientOrientation",
    "PixelIntensityRelationship",
    "PresentationIntentType",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesDescription",
    "ViewCodeSequence",
    "ViewPosition",
)
"""Keywords of the elements that are read here."""

# PS3.16 CID 4014 and 4015: SNOMED CT codes, and the older SRT codes that many files hold.
VIEWS = {
    "CC": {"399162004", "R-10242"},
    "MLO": {"399368009", "R-10226"},
    "ML": {"399260004", "R-10224"},
    "LM": {"399352003", "R-10228"},
    "LMO": {"399099002", "R-10230"},
    "FB": {"399196006", "R-10244"},  # caudo-cranial, from below
    "SIO": {"399188001", "R-102D0"},  # superolateral to inferomedial oblique
    "ISO": {"441555000", "R-40AAA"},  # inferomedial to superolateral oblique
    "XCCL": {"399192008", "R-1024A"},  # exaggerated cranio-caudal, laterally
    "XCCM": {"399101009", "R-1024B"},  # ... medially
}
SPECIMEN = {"127457009", "G-8310"}  # tissue specimen from breast
PARTIAL = {
    "spot compression": {"399055006", "R-102D7"},
    "magnification": {"399163009", "R-102D6"},
    "tangential": {"399110001", "R-102C2"},
    "cleavage": {"399161006", "R-102D2"},
    "axillary tail": {"399011000", "R-102D1"},
    "axillary tissue": {"442580003", "R-40AB2"},
    "infra-mammary fold": {"442593008", "R-40ABE"},
    "anterior compression": {"441752004", "P2-00161"},
}
WHOLE = {
    "rolled lateral": {"399197002", "R-102D3"},
    "rolled medial": {"399226006", "R-102D4"},
    "rolled inferior": {"414493004", "R-102CA"},
    "rolled superior": {"415670009", "R-102C9"},
    "nipple in profile": {"442581004", "R-40AB3"},
}
"""View modifiers under which the whole breast is shown. They have no consequence."""
IMPLANT_DISPLACED = {"399209000", "R-102D5"}
VIEW_OF = {code: view for view, codes in VIEWS.items() for code in codes}
PARTIAL_CODES = frozenset().union(*PARTIAL.values())

DESCRIBED = re.compile(r"(?<![A-Z])(L|R|LEFT|RIGHT)[ _-]*(CC|MLO)(?![A-Z])")
"""A side and a view in a description, as devices write it."""

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

# Parts of words by which ImageType and the device's description give an image's kind.
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
    """How one image was taken. A value is None or False if the header does not give it.

    `uid` identifies the file. It is only compared, never written. `special` holds the reasons why
    the image is not a plain mammogram. `ambiguous` is True if elements give different sides or
    views. `orientation` gives the directions of rows and columns of pixels, in words of the letters
    A, P, L, R, H and F; it is empty if the header does not give them. `linear` is True if pixel
    values are proportional to the X-ray intensity.
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
    ambiguous: bool = False
    orientation: tuple[str, ...] = ()
    linear: bool = False


def read_acquisition(elements: Elements) -> Acquisition:
    """Return how the image with these `elements` was taken."""
    modifiers = set(_modifiers(elements))
    views, sides = _views(elements), _sides(elements)
    described = _described(elements)
    paddle = elements.text("PaddleDescription") or ""
    sop_class = elements.text("SOPClassUID")
    return Acquisition(
        uid=elements.text("SOPInstanceUID") or "",
        modality=elements.text("Modality"),
        for_processing=elements.text("PresentationIntentType") == "FOR PROCESSING"
        or sop_class in FOR_PROCESSING,
        # Some devices store slices and syntheses as plain mammograms of one frame.
        tomosynthesis=sop_class in TOMOSYNTHESIS or "TOMO" in (elements.text("ImageType") or ""),
        # ImageLaterality belongs to the image; Laterality belongs to its series.
        side=next(iter(sides), None),
        view=next(iter(views), None),
        partial=bool(modifiers & PARTIAL_CODES)
        or "SPOT" in paddle
        or "MAG" in paddle
        or _magnification(elements) >= MAGNIFIED,
        implant=elements.text("BreastImplantPresent") == "YES",
        implant_displaced=bool(modifiers & IMPLANT_DISPLACED),
        special=frozenset(_special(elements)),
        ambiguous=len({*sides, *described[:1]}) > 1 or len({*views, *described[1:]}) > 1,
        orientation=tuple((elements.text("PatientOrientation") or "").split("\\")),
        linear=elements.text("PixelIntensityRelationship") == "LIN",
    )


def _special(elements: Elements) -> Iterator[Reason]:
    kind = elements.text("ImageType") or ""
    description = elements.text("AcquisitionDeviceProcessingDescription") or ""
    paddle = elements.text("PaddleDescription") or ""
    found = {reason for reason, words in WORDS.items() if _has(f"{kind}\\{description}", words)}
    if _has(paddle, WORDS[Reason.BIOPSY]):
        found.add(Reason.BIOPSY)
    shown = {*_codes(elements, "AnatomicRegionSequence"), *_codes(elements, "ViewCodeSequence")}
    if shown & SPECIMEN:
        found.add(Reason.SPECIMEN)
    if elements.text("ContrastBolusAgent") not in {None, "NONE", "NO"}:
        found.add(Reason.CONTRAST)
    # The low-energy image of a contrast examination looks like a plain mammogram. An image computed
    # from it and the high-energy image does not.
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


def _sides(elements: Elements) -> list[str]:
    """Return the sides that elements state: first the image's own element, then the series'."""
    words = (elements.text(keyword) for keyword in ("ImageLaterality", "Laterality"))
    return [word for word in words if word in {"L", "R"}]


def _views(elements: Elements) -> list[str]:
    """Return the views given by elements, ViewPosition before the coded views."""
    position = elements.text("ViewPosition")
    coded = (VIEW_OF.get(code) for code in _codes(elements, "ViewCodeSequence"))
    return [view for view in (position, *coded) if view]


def _described(elements: Elements) -> tuple[str, ...]:
    """Return the side and view in the series' description; empty if there is none or several."""
    found = {
        (side[0], view)
        for side, view in DESCRIBED.findall(elements.text("SeriesDescription") or "")
    }
    return found.pop() if len(found) == 1 else ()


def _codes(elements: Elements, keyword: str) -> Iterator[str]:
    for item in elements.items(keyword):
        yield Elements(item).text("CodeValue") or ""


def _modifiers(elements: Elements) -> Iterator[str]:
    for view in elements.items("ViewCodeSequence"):
        yield from _codes(Elements(view), "ViewModifierCodeSequence")


def _magnification(elements: Elements) -> float:
    return elements.number("EstimatedRadiographicMagnificationFactor") or 1.0
