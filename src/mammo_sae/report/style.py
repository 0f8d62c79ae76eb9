"""One look for all figures: colours, fonts, wording, and how a figure becomes a file.

Colours are Okabe and Ito's colour-blind safe palette and relatives of it. A concept, an encoder, a
confounder and a verdict each keep one colour in every figure: names get colours by their place in
the sorted list of all such names of a run, never by what one figure happens to show.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mammo_sae.stores.publish import atomic_file

DPI = 160
INK = "#1F2933"
FAINT = "#8A94A0"
RULE = "#D9DEE3"

CONCEPT_COLOURS = ("#2FA4E7", "#E0559F", "#8FB339", "#7D6BD6")
ENCODER_COLOURS = ("#332E73", "#B08B4F", "#3F9F97", "#1B1B1B", "#7FA8D9")
CONFOUNDER_COLOURS = (
    "#999933",
    "#0072B2",
    "#882255",
    "#DDCC77",
    "#56B4E9",
    "#332288",
    "#CC6677",
    "#661100",
)
RANKING_COLOURS = {
    "auroc": "#0072B2",
    "class_mean": "#D55E00",
    "mean_difference": "#009E73",
    "effect": "#56B4E9",
    "class_union": "#E69F00",
    "random": "#8A94A0",
}
VERDICT_COLOURS = {
    "concept-aligned": "#009E73",
    "mixed": "#E69F00",
    "confounded": "#D55E00",
    "unresolved": "#8A94A0",
    "insufficient": "#CBD2D9",
}

_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 6.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure of `width` x `height` inches; write it as PNG when the block succeeds.

    The bytes depend on what is drawn alone: neither date nor software is recorded.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        fig = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(fig)
        yield fig
        with atomic_file(path) as aside:
            fig.savefig(aside, format="png", metadata={"Software": None})


def colours(names: Iterable[str], palette: Sequence[str]) -> dict[str, str]:
    """Return a colour per name, by its place among all of them, sorted."""
    return {name: palette[i % len(palette)] for i, name in enumerate(sorted(set(names)))}


def words(name: str) -> str:
    """Return a column's or concept's name as words."""
    return name.replace("_", " ")


def layer_order(layers: Iterable[str]) -> list[str]:
    """Return distinct layers in the order in which a network computes them."""

    def place(layer: str) -> tuple[int, int, str]:
        block = re.fullmatch(r"blocks\.(\d+)", layer)
        if block:
            return 0, int(block[1]), ""
        return 1 + (layer == "pooled"), 0, layer

    return sorted(set(layers), key=place)


def estimate(value: float, low: float, high: float, digits: int = 2) -> str:
    """Return "value [low, high]", or "not estimable"."""
    if math.isnan(value):
        return "not estimable"
    if math.isnan(low) or math.isnan(high):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def heading(fig: Figure, title: str, subtitle: str = "") -> None:
    """Write the figure's title and a line below it at its upper left corner."""
    _, height = fig.get_size_inches()
    fig.text(0.12 / fig.get_figwidth(), 1 - 0.12 / height, title, va="top", size=12, weight="bold")
    if subtitle:
        fig.text(
            0.12 / fig.get_figwidth(), 1 - 0.38 / height, subtitle, va="top", size=8.5, color=FAINT
        )


def reference(ax: Axes, value: float, text: str = "", *, axis: str = "y") -> None:
    """Draw a thin reference line (chance, baseline) at `value`, named at its end."""
    line = ax.axhline if axis == "y" else ax.axvline
    line(value, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    if text and axis == "y":
        ax.annotate(
            text,
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            size=7,
            color=FAINT,
        )


def empty(ax: Axes, text: str) -> None:
    """Say in a panel why it shows nothing."""
    ax.set_axis_off()
    ax.text(
        0.5, 0.5, text, ha="center", va="center", color=FAINT, transform=ax.transAxes, wrap=True
    )


def legend(
    fig: Figure, entries: dict[str, str], *, x: float | None = None, markers: str = "o"
) -> None:
    """Name colours in a line at the figure's upper right corner."""
    handles = [
        Line2D([], [], color=colour, marker=markers, linestyle="none", markersize=6)
        for colour in entries.values()
    ]
    fig.legend(
        handles,
        [words(name) for name in entries],
        loc="upper right",
        bbox_to_anchor=(1 if x is None else x, 1 - 0.04 / fig.get_figheight()),
        ncols=len(entries),
        handletextpad=0.2,
        columnspacing=1.2,
    )
