"""The two manufacturers of the phantom cohort: how each displays and stores the same breast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Window:
    """A VOI window of function LINEAR, in stored values."""

    centre: float
    width: float
    explanation: str


@dataclass(frozen=True)
class Vendor:
    """A manufacturer. Display values go from 0 (black) to 1 (white). Stored values are integers."""

    manufacturer: str
    model: str
    software: str
    gamma: float  # display = linear grey ** gamma
    noise: float  # relative to the cohort's noise
    imager_spacing_mm: float  # at the detector, for an image of the reference height
    photometric: Literal["MONOCHROME1", "MONOCHROME2"]
    bits_stored: int
    black: int  # stored value shown as black by the first window
    white: int  # stored value shown as white by the first window
    windows: tuple[Window, ...]
    compressed: bool  # True: JPEG-LS lossless; False: explicit VR little endian

    def display(self, grey: np.ndarray) -> np.ndarray:
        """Return the display value of linear `grey`.

        Greys above 0.72 are compressed smoothly towards 1. Then the power `gamma` is applied.
        """
        shoulder = 0.72
        room = 1 - shoulder
        high = 1 - room * np.exp((shoulder - np.maximum(grey, shoulder)) / room)
        return np.where(grey > shoulder, high, grey.clip(0)) ** np.float32(self.gamma)

    def stored(self, display: np.ndarray) -> np.ndarray:
        """Return the uint16 values that the first window displays as `display`."""
        return np.rint(self.black + display * (self.white - self.black)).astype(np.uint16)


def _linear_window(low: int, high: int, explanation: str) -> Window:
    """Return the window that displays `low` and `high` as black and white.

    DICOM PS3.3 C.11.2.1.2.1: the ends are centre - 0.5 -+ (width - 1) / 2.
    """
    return Window((low + high + 1) / 2, high - low + 1, explanation)


VENDORS = (
    Vendor(
        manufacturer="Aldermoor Imaging",
        model="Lumen 3000",
        software="2.4.1",
        gamma=1.0,
        noise=1.0,
        imager_spacing_mm=0.63,
        photometric="MONOCHROME2",
        bits_stored=14,
        black=600,
        white=13000,
        windows=(_linear_window(600, 13000, "NORMAL"), _linear_window(2600, 11000, "HARDER")),
        compressed=False,
    ),
    Vendor(
        manufacturer="Brightwater Medical",
        model="Serena DM",
        software="VB30A",
        gamma=0.82,
        noise=1.6,
        imager_spacing_mm=0.595,
        photometric="MONOCHROME1",
        bits_stored=12,
        black=4095,
        white=0,
        windows=(_linear_window(0, 4095, "NORMAL"),),
        compressed=True,
    ),
)
