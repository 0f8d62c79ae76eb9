"""Settings of canonical images: which are left out, and how the others are preprocessed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mammo_sae.dicom.refusal import Policy
from mammo_sae.settings import Settings


class TriageSettings(Settings):
    """Policies for images that can be converted but may be unwanted.

    `refuse` leaves the image out and lists it in its store; `warn` converts it with a warning;
    `accept` converts it. Images that can't be converted are always left out.
    """

    modality: Policy = Field("refuse", description="the header's modality is not MG")
    for_processing: Policy = Field("refuse", description="raw data instead of a displayable image")
    tomosynthesis: Policy = Field(
        "refuse", description="single slices, projections and syntheses of tomosynthesis"
    )
    partial_view: Policy = Field(
        "refuse", description="spot, magnification and other views of a part of the breast"
    )
    view: Policy = Field("warn", description="header and annotations give different views")
    side: Policy = Field("warn", description="header and annotations give different sides")
    ambiguous: Policy = Field("warn", description="header names several sides or views")
    orientation: Policy = Field(
        "warn", description="PatientOrientation contradicts the side or the pixels"
    )
    mirrored: Policy = Field("warn", description="the breast is on the unexpected side")
    no_breast: Policy = Field("warn", description="no breast was found in the image")
    implant: Policy = Field("accept", description="breast with an implant")
    implant_displaced: Policy = Field("accept", description="view with the implant displaced")
    presentation: Policy = Field("warn", description="header contradicts itself on inversion")
    linear: Policy = Field(
        "warn", description="pixel values proportional to the X-ray intensity by the header"
    )
    contrast: Policy = Field(
        "refuse", description="subtracted, recombined and other images with contrast medium"
    )
    low_energy: Policy = Field("accept", description="low-energy images of contrast examinations")
    stereo: Policy = Field("refuse", description="scouts and pairs of stereotactic examinations")
    specimen: Policy = Field("refuse", description="images of specimens")
    ductogram: Policy = Field("refuse", description="ductograms (galactograms)")
    biopsy: Policy = Field("refuse", description="images taken for a biopsy or to place a wire")
    secondary_capture: Policy = Field("accept", description="secondary captures by SOP class")
    digitised_film: Policy = Field("accept", description="digitised films")
    malformed: Policy = Field("warn", description="malformed element that was not needed")
    decimal_comma: Policy = Field("warn", description="numbers with a decimal comma")
    spacing: Policy = Field("warn", description="impossible, unequal or contradictory spacings")
    bits_exceeded: Policy = Field(
        "warn", description="pixels with more bits than the header says; all bits are used"
    )
    bits_unused: Policy = Field(
        "warn", description="pixels or lookup table with fewer bits than the header says"
    )
    sign: Policy = Field("refuse", description="pixels that seem to have the other sign")
    padding: Policy = Field("warn", description="padding value inside the breast")
    beside_window: Policy = Field(
        "warn", description="nearly all of the image is black or white with its window"
    )
    resized: Policy = Field(
        "warn", description="image of another size than the settings, with preprocessing as_is"
    )
    duplicate: Policy = Field(
        "refuse", description="same pixels or instance UID as an earlier image of the shard"
    )
    missing: Policy = Field(
        "refuse",
        description="annotations whose file is missing; always left out; `refuse` counts them as "
        "refused, `warn` only prints a warning, `accept` only lists them in the quarantine table",
    )
    most_refused: float = Field(
        0.05,
        ge=0,
        le=1,
        description="largest share of refused images in a shard; a larger share ends the run with "
        "an error; a single image ends it only if this is 0",
    )


class _Images(Settings):
    triage: TriageSettings = Field(TriageSettings(), description="which images are left out")


class ClinicalSettings(_Images):
    """The image as a radiologist sees it: display values, breast on the left, aspect ratio kept."""

    preprocessing: Literal["clinical"] = Field(
        "clinical",
        description="display values (modality and VOI transformations, presentation inversion), "
        "breast flipped to the left, aspect ratio kept by padding, area-averaging resize",
    )
    height: int = Field(384, ge=32, description="height of the canonical image, pixels")
    width: int = Field(256, ge=32, description="width of the canonical image, pixels")
    voi: Literal["header", "none"] = Field(
        "header",
        description="`header` applies the header's VOI LUT or, without one, its window; "
        "`none` shows the full nominal range",
    )
    voi_index: int = Field(
        0, ge=0, description="index of the VOI LUT or window, from 0, if there are several"
    )


class MammoClipSettings(_Images):
    """The preprocessing with which Mammo-CLIP's published weights were trained."""

    preprocessing: Literal["mammo_clip"] = Field(
        "mammo_clip",
        description="Mammo-CLIP's own: 5 pixels cropped, min-max to 8 bits without a VOI "
        "transformation, cropped to the breast, resized without keeping the aspect ratio",
    )
    height: int = Field(1520, ge=32, description="height of the canonical image, pixels")
    width: int = Field(912, ge=32, description="width of the canonical image, pixels")
    compat: bool = Field(
        False,
        description="limit boxes with the axes swapped, as the published script does, for "
        "comparison with its boxes",
    )


class AsIsSettings(_Images):
    """Images that are already preprocessed, such as PNGs of Mammo-CLIP's preprocessing."""

    preprocessing: Literal["as_is"] = Field(
        "as_is",
        description="for images that are already preprocessed: grey levels by their nominal "
        "range, no crop, no stretching, no mirroring; images of another size are resized, with "
        "the aspect ratio kept by padding",
    )
    height: int = Field(1520, ge=32, description="height of the canonical image, pixels")
    width: int = Field(912, ge=32, description="width of the canonical image, pixels")


ImagesSettings = Annotated[
    ClinicalSettings | MammoClipSettings | AsIsSettings, Field(discriminator="preprocessing")
]
