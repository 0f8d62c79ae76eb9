"""Figures of the report as matplotlib figures that a notebook shows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from mammo_sae.report.style import DPI


class Picture(Figure):
    """A matplotlib figure with a drawing of the report.

    A notebook shows it as it is, also without pyplot.

    Parameters
    ----------
    png
        The drawing, as bytes of a PNG file.
    """

    def __init__(self, png: bytes) -> None:
        pixels = imread(BytesIO(png))
        height, width = pixels.shape[:2]
        super().__init__(figsize=(width / DPI, height / DPI), dpi=DPI)
        FigureCanvasAgg(self)
        self.png = png
        ax = self.add_axes((0, 0, 1, 1))
        ax.imshow(pixels, aspect="auto", interpolation="nearest")
        ax.set_axis_off()

    def _repr_png_(self) -> bytes:
        return self.png


def picture(draw: Callable[[Path], object]) -> Picture:
    """Return the figure that `draw` writes to a path, a PNG file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.png"
        draw(path)
        return Picture(path.read_bytes())
