"""Why a DICOM file is not converted: one code and one sentence per reason."""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """A reason: its value is a code and what is wrong with the file."""

    UNREADABLE = ("unreadable", "the file is missing or can't be opened")
    NOT_DICOM = ("not_dicom", "the file is not DICOM")
    HEADER = ("header", "an image attribute is missing or not a number")
    NO_PIXELS = ("no_pixels", "the file has no integer pixel data")
    COLOUR = ("colour", "the image is not MONOCHROME1 or MONOCHROME2 with one sample per pixel")
    MULTI_FRAME = ("multi_frame", "the image has several frames, as tomosynthesis has")
    BITS = ("bits", "the pixels are not 8 or 16 bits allocated with consistent bits stored")
    SYNTAX = ("syntax", "no trusted decoder exists for the transfer syntax")
    DECODE = ("decode", "the pixel data are truncated or damaged")
    LUT = ("lut", "a lookup table in the header is malformed")
    WINDOW = ("window", "the VOI window is malformed or not the one that the settings ask for")
    SIZE = ("size", "the decoded image does not have the size that the annotations give")
    MASK = ("mask", "the lesion mask is missing, unreadable, or not of the image's size")
    BLANK = ("blank", "all pixels have the same value")


class Refusal(Exception):
    """A DICOM file can't be converted.

    The message holds the reason alone, never a value or a path from the file: it is printed and
    logged beside the image's pseudonym.
    """

    def __init__(self, reason: Reason, detail: str = ""):
        code, text = reason.value
        super().__init__(f"{text}{f' ({detail})' if detail else ''} [{code}]")
        self.reason = reason
