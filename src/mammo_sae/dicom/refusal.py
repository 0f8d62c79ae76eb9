"""Why an image file is not converted: one code and one sentence per reason."""

from __future__ import annotations

from enum import Enum
from typing import Literal

Policy = Literal["refuse", "warn", "accept"]
"""What is done where there is a reason that settings may overrule."""


class Reason(Enum):
    """A reason: its value is a code and what is wrong with the file.

    The first group can't be converted at all; for the second, `TriageSettings` has a policy each.
    """

    MISSING = ("missing", "an annotation speaks of the image, but there is no such file")
    UNREADABLE = ("unreadable", "the file can't be opened")
    NOT_IMAGE = ("not_image", "the file is neither DICOM nor PNG, JPEG, TIFF or NPY")
    HEADER = ("header", "an image attribute is missing or not a number")
    NO_PIXELS = ("no_pixels", "the file has no integer pixel data")
    COLOUR = ("colour", "the image is in colour or partly transparent, not grey levels alone")
    MULTI_FRAME = ("multi_frame", "the image has several frames")
    BITS = ("bits", "the pixels are not whole numbers of 8 or 16 bits, consistently stored")
    TOO_LARGE = ("too_large", "the image has more pixels than any mammogram")
    SYNTAX = ("syntax", "no trusted decoder exists for the transfer syntax")
    TRUNCATED = ("truncated", "the file is cut off, or damaged so that its end can't be found")
    DECODE = ("decode", "the pixel data are damaged")
    LUT = ("lut", "a lookup table in the header is malformed")
    WINDOW = ("window", "the VOI window is malformed or not the one that the settings ask for")
    SIZE = ("size", "the decoded image does not have the size that the annotations give")
    MASK = ("mask", "the lesion mask is missing, unreadable, or not of the image's size")
    UNANNOTATED = ("unannotated", "no annotation speaks of the file")
    BLANK = ("blank", "all pixels have the same value, or are displayed as the same grey")

    MODALITY = ("modality", "the image is not a mammogram by its modality")
    FOR_PROCESSING = ("for_processing", "the image is raw data, for processing")
    TOMOSYNTHESIS = (
        "tomosynthesis",
        "the image is a slice, a projection or a synthesis of tomosynthesis",
    )
    PARTIAL_VIEW = (
        "partial_view",
        "the image is a spot, magnification or other view of a part of the breast",
    )
    VIEW = ("view", "the header gives another view than the annotations")
    SIDE = ("side", "the header gives another side than the annotations")
    AMBIGUOUS = (
        "ambiguous",
        "the header names several sides or views; the image's own element is followed",
    )
    ORIENTATION = (
        "orientation",
        "PatientOrientation is not that of an upright image of this side, or contradicts where the "
        "breast lies in it",
    )
    MIRRORED = ("mirrored", "the breast lies on the other side of the image than its side implies")
    NO_BREAST = ("no_breast", "no breast can be told from the background")
    IMPLANT = ("implant", "the breast has an implant")
    IMPLANT_DISPLACED = ("implant_displaced", "the implant is displaced out of the image")
    PRESENTATION = (
        "presentation",
        "PresentationLUTShape contradicts the photometric interpretation, which is followed",
    )
    LINEAR = (
        "linear",
        "the header says that pixel values are proportional to the X-ray intensity, as those of "
        "raw data are",
    )
    CONTRAST = ("contrast", "the image shows contrast medium, or the part of it alone")
    LOW_ENERGY = ("low_energy", "the image is the low-energy one of a contrast examination")
    STEREO = ("stereo", "the image is one of a stereotactic examination")
    SPECIMEN = ("specimen", "the image is of a specimen")
    DUCTOGRAM = ("ductogram", "the image is a ductogram")
    BIOPSY = ("biopsy", "the image was taken for a biopsy or to place a wire")
    SECONDARY_CAPTURE = ("secondary_capture", "the image is a secondary capture by its SOP class")
    DIGITISED_FILM = ("digitised_film", "the image is a digitised film")
    MALFORMED = ("malformed", "the header has a malformed element that was not needed")
    DECIMAL_COMMA = ("decimal_comma", "the header has numbers with a decimal comma, read as such")
    SPACING = (
        "spacing",
        "the header's pixel spacings are impossible for a mammogram, unequal along rows and "
        "columns, or contradict each other",
    )
    BITS_EXCEEDED = (
        "bits_exceeded",
        "the pixels have more bits than the header says; all of them are read",
    )
    BITS_UNUSED = (
        "bits_unused",
        "the pixels or a lookup table have fewer bits than the header says; the range that they "
        "use is shown",
    )
    SIGN = (
        "sign",
        "the pixels seem to be signed though the header says that they are not, or the other way "
        "round",
    )
    PADDING = (
        "padding",
        "pixels inside of the breast have the value of the padding; where most of the padding is "
        "such pixels, it is taken for an ordinary value",
    )
    BESIDE_WINDOW = (
        "beside_window",
        "nearly all of the image is shown black or white: its values lie beside the window",
    )
    RESIZED = ("resized", "the image was resized, though the settings take images as they are")
    DUPLICATE = ("duplicate", "another image has the same pixels or the same instance UID")

    @property
    def code(self) -> str:
        """The reason's name in settings and reports."""
        return self.value[0]


HEADER_ALONE = frozenset(
    {
        Reason.AMBIGUOUS,
        Reason.DECIMAL_COMMA,
        Reason.DUPLICATE,
        Reason.MALFORMED,
        Reason.ORIENTATION,
        Reason.SIDE,
        Reason.SPACING,
        Reason.VIEW,
    }
)
"""Reasons that change no pixel of an image that is converted: it can't be seen what is said wrongly
of it. So they are no confounders, while what is seen or says how the image was taken may be."""


class Refusal(Exception):
    """An image file can't be converted.

    The message holds the reason alone, never a value or a path from the file: it is printed and
    logged beside the image's pseudonym.
    """

    def __init__(self, reason: Reason, detail: str = ""):
        code, text = reason.value
        super().__init__(f"{text}{f' ({detail})' if detail else ''} [{code}]")
        self.reason = reason
