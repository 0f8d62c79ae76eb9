"""Reasons why an image file is not converted: a code and a sentence each."""

from __future__ import annotations

from enum import Enum
from typing import Literal

Policy = Literal["refuse", "warn", "accept"]
"""What happens for a reason that settings may overrule."""


class Reason(Enum):
    """A reason. Its value is a code and a sentence about the file.

    Images with a reason of the first group are never converted. Each reason of the second group has
    a policy in `TriageSettings`.
    """

    MISSING = ("missing", "an annotation refers to the image, but the file does not exist")
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
    UNANNOTATED = ("unannotated", "no annotation refers to the file")
    BLANK = ("blank", "all pixels have the same value or the same displayed grey level")

    MODALITY = ("modality", "the header's modality is not MG (mammography)")
    FOR_PROCESSING = ("for_processing", "the image is raw data, for processing")
    TOMOSYNTHESIS = (
        "tomosynthesis",
        "the image is a slice, a projection or a synthesis of tomosynthesis",
    )
    PARTIAL_VIEW = (
        "partial_view",
        "the image is a spot, magnification or other view of a part of the breast",
    )
    VIEW = ("view", "the view in the header differs from the annotations")
    SIDE = ("side", "the side in the header differs from the annotations")
    AMBIGUOUS = (
        "ambiguous",
        "the header names several sides or views; the image's own element is used",
    )
    ORIENTATION = (
        "orientation",
        "PatientOrientation is not that of an upright image of this side, or contradicts where the "
        "breast lies in it",
    )
    MIRRORED = ("mirrored", "the breast is on the other side of the image than its side implies")
    NO_BREAST = ("no_breast", "no breast was found in the image")
    IMPLANT = ("implant", "the breast has an implant")
    IMPLANT_DISPLACED = ("implant_displaced", "the implant is displaced out of the image")
    PRESENTATION = (
        "presentation",
        "PresentationLUTShape contradicts the photometric interpretation, which is used",
    )
    LINEAR = (
        "linear",
        "the header says that pixel values are proportional to the X-ray intensity, as in raw data",
    )
    CONTRAST = ("contrast", "the image shows contrast medium, or only its contribution")
    LOW_ENERGY = ("low_energy", "the image is the low-energy image of a contrast examination")
    STEREO = ("stereo", "the image is one of a stereotactic examination")
    SPECIMEN = ("specimen", "the image is of a specimen")
    DUCTOGRAM = ("ductogram", "the image is a ductogram")
    BIOPSY = ("biopsy", "the image was taken for a biopsy or to place a wire")
    SECONDARY_CAPTURE = ("secondary_capture", "the image is a secondary capture by its SOP class")
    DIGITISED_FILM = ("digitised_film", "the image is a digitised film")
    MALFORMED = ("malformed", "the header has a malformed element that was not needed")
    DECIMAL_COMMA = ("decimal_comma", "the header has numbers with a decimal comma")
    SPACING = (
        "spacing",
        "the header's pixel spacings are impossible for a mammogram, unequal along rows and "
        "columns, or contradict each other",
    )
    BITS_EXCEEDED = (
        "bits_exceeded",
        "the pixels have more bits than the header says; all of them are used",
    )
    BITS_UNUSED = (
        "bits_unused",
        "the pixels or a lookup table have fewer bits than the header says; the range in use is "
        "shown",
    )
    SIGN = (
        "sign",
        "the pixels seem to be signed although the header says unsigned, or the reverse",
    )
    PADDING = (
        "padding",
        "pixels inside the breast have the padding value; if they are most of the padding, the "
        "value is treated as an ordinary one",
    )
    BESIDE_WINDOW = (
        "beside_window",
        "nearly all of the image is shown black or white: its values lie outside the window",
    )
    RESIZED = ("resized", "the image was resized, although the settings take images unchanged")
    DUPLICATE = ("duplicate", "another image has the same pixels or the same instance UID")

    @property
    def code(self) -> str:
        """Return the reason's name in settings and reports."""
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
"""Reasons that change no pixel of a converted image, so they can't be confounders. Other reasons
are visible, or describe how the image was taken, so they may be confounders."""


class Refusal(Exception):
    """An image file can't be converted.

    The message contains only the reason. It never contains a value or path from the file, since it
    is printed and logged with the image's pseudonym.
    """

    def __init__(self, reason: Reason, detail: str = ""):
        code, text = reason.value
        super().__init__(f"{text}{f' ({detail})' if detail else ''} [{code}]")
        self.reason = reason
