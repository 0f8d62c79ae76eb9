"""How an image was taken, as far as its header says: what triage judges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import (
    BreastProjectionXRayImageStorageForPresentation,
    BreastProjectionXRayImageStorageForProcessing,
    BreastTomosynthesisImageStorage,
    DigitalMammographyXRayImageStorageForProcessing,
)

READ = (
    "BreastImplantPresent",
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

MAGNIFIED = 1.4  # magnification views are taken at 1.5 to 2; contact views at 1.0 to 1.1


@dataclass(frozen=True)
class Acquisition:
    """How one image was taken; None or False where the header does not say.

    `uid` identifies the file and is compared only, never written.
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


def read_acquisition(dataset: Dataset) -> Acquisition:
    """Read how the image of `dataset` was taken."""
    modifiers = set(_modifiers(dataset))
    paddle = _text(dataset, "PaddleDescription") or ""
    sop_class = _text(dataset, "SOPClassUID")
    return Acquisition(
        uid=_text(dataset, "SOPInstanceUID") or "",
        modality=_text(dataset, "Modality"),
        for_processing=_text(dataset, "PresentationIntentType") == "FOR PROCESSING"
        or sop_class in FOR_PROCESSING,
        # Some devices store slices and syntheses, one frame each, as plain mammograms.
        tomosynthesis=sop_class in TOMOSYNTHESIS or "TOMO" in (_text(dataset, "ImageType") or ""),
        # ImageLaterality is the image's own; Laterality is its series'.
        side=_side(dataset, "ImageLaterality") or _side(dataset, "Laterality"),
        view=_view(dataset),
        partial=bool(modifiers & (SPOT | MAGNIFICATION))
        or "SPOT" in paddle
        or "MAG" in paddle
        or _magnification(dataset) >= MAGNIFIED,
        implant=_text(dataset, "BreastImplantPresent") == "YES",
        implant_displaced=bool(modifiers & IMPLANT_DISPLACED),
    )


def _text(dataset: Dataset, keyword: str) -> str | None:
    value = dataset.get(keyword)
    return str(value).strip().upper() or None if value is not None else None


def _side(dataset: Dataset, keyword: str) -> str | None:
    value = _text(dataset, keyword)
    return value if value in {"L", "R"} else None


def _view(dataset: Dataset) -> str | None:
    position = _text(dataset, "ViewPosition")
    if position:
        return position
    codes = (_text(item, "CodeValue") for item in dataset.get("ViewCodeSequence") or ())
    return next((VIEWS[code] for code in codes if code in VIEWS), None)


def _modifiers(dataset: Dataset) -> Iterator[str]:
    for view in dataset.get("ViewCodeSequence") or ():
        for item in view.get("ViewModifierCodeSequence") or ():
            yield _text(item, "CodeValue") or ""


def _magnification(dataset: Dataset) -> float:
    try:
        return float(dataset.get("EstimatedRadiographicMagnificationFactor") or 1.0)
    except (TypeError, ValueError):
        return 1.0
