"""The style of all figures: colours, fonts, wording, and the conversion to a file.

Colours are Okabe and Ito's colour-blind safe palette and related colours. A concept, an encoder, a
confounder, a ranking and a verdict each have the same colour in every figure of every run, since
the colour follows from the name (`colours`).
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import ColorType, RcKeyType
from PIL import Image

from mammo_sae.errors import InputError
from mammo_sae.stores.publish import atomic_file

DPI = 110  # enough for a screen; a report has many figures
PRINT_DPI = 300  # of the images in a figure for a paper
# Format of a figure -> what would make its bytes differ from day to day or between versions.
UNSTABLE = {
    "png": ("Software",),
    "svg": ("Date", "Creator"),
    "pdf": ("CreationDate", "Creator", "Producer"),
}
# Number of greys in a file, and the largest difference between the channels of a grey.
GREYS, GREY_TOLERANCE = 24, 6
INK = "#1F2933"
FAINT = "#6B7683"
RULE = "#D9DEE3"

SPLITS = ("training", "validation", "test", "external")

# Palettes. Names that every run of the phantom has keep their colour; others take a free one.
CONCEPT_COLOURS = {
    "mass": "#2FA4E7",
    "suspicious_calcification": "#E0559F",
    "third": "#8FB339",
    "fourth": "#7D6BD6",
}
ENCODER_COLOURS = {
    "finetuned": "#332E73",
    "pretrained": "#B08B4F",
    "third": "#3F9F97",
    "fourth": "#1B1B1B",
    "fifth": "#7FA8D9",
}
CONFOUNDER_COLOURS = {
    "marker": "#882255",
    "manufacturer": "#0072B2",
    "paddle": "#DDCC77",
    "density": "#999933",
    "view": "#661100",
    "side": "#56B4E9",
    "age_bin": "#CC6677",
    "eighth": "#332288",
}
# Labels and colours of rankings, the same in all figures.
RANKINGS = {
    "auroc": ("AUROC", "#0072B2"),
    "class_mean": ("class mean", "#D55E00"),
    "mean_difference": ("mean difference", "#009E73"),
    "class_contrast": ("class contrast", "#882255"),
    "effect": ("effect size", "#56B4E9"),
    "sparse_probe": ("sparse probe", "#332288"),
    "class_union": ("class mean, both classes", "#E69F00"),
    "both_ends": ("mean difference, both ends", "#999933"),
    "random": ("random order", "#8A94A0"),
}
VERDICT_COLOURS = {
    "concept-aligned": "#009E73",
    "mixed": "#E69F00",
    "confounded": "#D55E00",
    "anatomy": "#332288",
    "unresolved": "#8A94A0",
    "insufficient": "#CBD2D9",
    "not associated": "#F1F3F5",
}

_RC: dict[RcKeyType, object] = {
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
    # Text stays text, which a person can edit and search.
    "svg.fonttype": "none",
    "svg.hashsalt": "mammo-sae",
    "pdf.fonttype": 42,
}


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure of `width` x `height` inches; write it if the block succeeds.

    The end of the name says the format: PNG for a screen, SVG or PDF for a paper. The bytes depend
    only on the drawing: neither date nor software is recorded.

    Raises
    ------
    InputError
        If the name of `path` does not end in .png, .svg or .pdf.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in UNSTABLE:
        raise InputError(
            f"{path}: figures are PNG, SVG or PDF files; give a name that ends in .png, .svg or "
            ".pdf"
        )
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        fig = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(fig)
        yield fig
        drawn = io.BytesIO()
        dpi = DPI if form == "png" else PRINT_DPI
        fig.savefig(drawn, format=form, dpi=dpi, metadata=dict.fromkeys(UNSTABLE[form]))
        with atomic_file(path) as aside:
            if form == "png":
                picture = _with_palette(Image.open(drawn).convert("RGB"))
                picture.save(aside, format="png", optimize=True)
            else:
                aside.write_bytes(drawn.getvalue())


def _with_palette(picture: Image.Image) -> Image.Image:
    """Return an RGB picture in 256 colours (24 greys, 232 others), for a third of the file size.

    Greys have levels of their own, so that tissue has no tint. The other colours are reduced by a
    method that keeps rare colours, so that a few dots keep the colour of their verdict.
    """
    pixels = np.asarray(picture).astype(np.int16)
    grey = np.ptp(pixels, axis=2) <= GREY_TOLERANCE
    levels = np.round(np.linspace(0, 255, GREYS)).astype(np.uint8)
    index = np.round(pixels.mean(axis=2) * (GREYS - 1) / 255).astype(np.uint8)
    palette = np.repeat(levels, 3)
    if not grey.all():
        others = Image.fromarray(pixels[~grey].astype(np.uint8)[None])
        method = Image.Quantize.MAXCOVERAGE
        others = others.quantize(256 - GREYS, method=method, dither=Image.Dither.NONE)
        index[~grey] = GREYS + np.asarray(others)[0]
        palette = np.append(palette, np.array(others.getpalette(), np.uint8)[: 3 * (256 - GREYS)])
    result = Image.fromarray(index, mode="P")
    result.putpalette(palette.tolist())
    return result


def absent(path: Path, title: str, reason: str) -> None:
    """Write a figure with the reason why there is nothing to draw."""
    with figure(path, 9.6, 3.0) as fig:
        heading(fig, title)
        fig.text(0.5, 0.42, "\n".join(textwrap.wrap(reason, 96)), ha="center", va="center")


def colours(names: Iterable[str], palette: Mapping[str, str]) -> dict[str, str]:
    """Return name -> colour, sorted by name.

    A name in the palette has its own colour. For another name, the search begins at a place that
    follows from its letters, and takes the first colour that no earlier name has. So equal sets of
    names have equal colours in every figure. With more names than colours, colours repeat.
    """
    slots = list(palette.values())
    result = {name: palette[name] for name in sorted(set(names)) if name in palette}
    for name in sorted(set(names) - set(result)):
        first = zlib.crc32(name.encode()) % len(slots)
        around = slots[first:] + slots[:first]
        free = [colour for colour in around if colour not in result.values()]
        result[name] = (free or around)[0]
    return dict(sorted(result.items()))


def rankings(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return label and colour of the rankings of a table, in the order of `RANKINGS`.

    A ranking without an entry in `RANKINGS` is shown under its own name.
    """
    present = [name for name in dict.fromkeys(names) if name]
    known = {name: entry for name, entry in RANKINGS.items() if name in present}
    others = (name for name in sorted(present) if name not in RANKINGS)
    return known | {name: (words(name), INK) for name in others}


def splits_of(names: Iterable[str]) -> list[str]:
    """Return distinct splits in their usual order."""
    present = set(names)
    return [split for split in SPLITS if split in present]


def words(name: str) -> str:
    """Return a column's or concept's name as words."""
    return name.replace("_", " ")


def layer_order(layers: Iterable[str]) -> list[str]:
    """Return distinct layers in the order of the network."""

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


def percent(share: float) -> str:
    """Return a share in whole percent, never as "-0%"."""
    text = f"{share:.0%}"
    return "0%" if text == "-0%" else text


def heading(fig: Figure, title: str, subtitle: str = "") -> None:
    """Write the figure's title and a line below it at its upper left corner."""
    _, height = fig.get_size_inches()
    fig.text(0.12 / fig.get_figwidth(), 1 - 0.12 / height, title, va="top", size=12, weight="bold")
    if subtitle:
        fig.text(
            0.12 / fig.get_figwidth(), 1 - 0.38 / height, subtitle, va="top", size=8.5, color=FAINT
        )


def reference(ax: Axes, value: float, text: str = "", *, axis: str = "y") -> None:
    """Draw a thin reference line (chance, baseline) at `value`, with `text` at its end."""
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


def empty(ax: Axes, text: str, width: int = 34) -> None:
    """Write into a panel why it is empty, `width` letters a line."""
    ax.set_axis_off()
    text = "\n".join(textwrap.fill(line, width) for line in text.splitlines())
    ax.text(0.5, 0.5, text, ha="center", va="center", size=8, color=FAINT, transform=ax.transAxes)


def reasons(rows: pd.DataFrame) -> str:
    """Return the reasons why rows of a table have no number."""
    if rows.empty:
        return "not run: the table has no such row"
    found = [reason for reason in rows["reason"].unique() if reason] if "reason" in rows else []
    return "not estimable: " + (found[0] if found else "the table gives no reason")


def counts_axis(ax: Axes, most: int) -> None:
    """Lay out a logarithmic axis for 0 to `most` latents, with labels that never touch."""
    ax.set_xscale("symlog", linthresh=1, linscale=0.4)
    ticks = [k for k in (0, 1, 10, 100, 1000, 10000) if k * 4 <= most]
    ticks = sorted({*ticks, most})
    ax.set_xticks(ticks, [f"{k:,}" for k in ticks])
    ax.minorticks_off()
    ax.set_xlim(-0.25, most * 1.6)


def legend(
    fig: Figure, entries: Mapping[str, ColorType], *, x: float | None = None, markers: str = "o"
) -> None:
    """Draw a colour legend in one line at the figure's upper right corner."""
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
