"""Step: draw the training curves of one encoder's SAEs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.typing import ColorType

from mammo_sae.errors import InputError
from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

PANELS = {
    "error": "reconstruction error",
    "rest": "penalties: loss minus error",
    "explained_variance": "explained variance",
    "dead_share": "share of dead latents",
    "lr": "learning rate × 1,000",
}
WORTH_DRAWING = 1e-9  # smaller penalties are rounding errors


def run(
    *,
    histories: Sequence[Path],
    layers: Sequence[str],
    encoder_name: str,
    sae_name: str,
    output: Path,
) -> list[Path]:
    """Draw the training curves of one encoder's SAEs of one name: a line per layer and seed.

    The loss is drawn as its two terms: the reconstruction error and the penalties. A penalty is a
    sparsity penalty, or the auxiliary loss, which is above 0 only while latents are dead.

    Parameters
    ----------
    histories
        Training logs (.csv), one per SAE.
    layers
        The layer of each of them, in the same order.
    encoder_name, sae_name
        Names for the title.
    output
        PNG to write.

    Raises
    ------
    InputError
        If there are not as many layers as training logs.
    """
    if len(histories) != len(layers):
        raise InputError(f"{len(histories)} training logs but {len(layers)} layers; give one each")
    curves = [
        (layer, _with_terms(read_table(path)))
        for layer, path in zip(layers, histories, strict=True)
    ]
    title = f"Training of the SAEs · {encoder_name} · {sae_name}"
    if all(history["step"].max() == 0 for _, history in curves):
        style.absent(output, title, "these SAEs took no training steps")
        return [output]
    order = style.layer_order(layers)
    ramp = mpl.colormaps["viridis"]
    palette = {layer: ramp(0.85 * i / max(1, len(order) - 1)) for i, layer in enumerate(order)}
    width, height = 13.0, 3.0
    with style.figure(output, width, height) as fig:
        style.heading(fig, title, "measured on each step's batch; loss = error + penalties")
        grid = fig.add_gridspec(
            1, len(PANELS), left=0.045, right=0.99, top=0.72, bottom=0.16, wspace=0.32
        )
        for place, (column, name) in enumerate(PANELS.items()):
            ax = fig.add_subplot(grid[place])
            ax.set_title(name)
            _panel(ax, column, curves, palette)
        style.legend(fig, palette, markers="s")
    return [output]


def _with_terms(history: pd.DataFrame) -> pd.DataFrame:
    rest = (history["loss"] - history["error"]).clip(lower=0)
    return history.assign(rest=rest, lr=history["lr"] * 1000)


def _panel(
    ax: Axes,
    column: str,
    curves: Sequence[tuple[str, pd.DataFrame]],
    palette: Mapping[str, ColorType],
) -> None:
    if column == "rest" and all(h["rest"].max() <= WORTH_DRAWING for _, h in curves):
        style.empty(ax, "none: the loss is the reconstruction error", 22)
        return
    if column in {"error", "rest"}:
        ax.set_yscale("log")
    for layer, history in curves:
        # Without dead latents the auxiliary loss is 0, which a logarithmic axis can't show.
        values = history[column].where(history[column] > 0) if column == "rest" else history[column]
        # An SAE without steps has one row, which only a marker shows.
        marker = "." if column == "rest" or len(history) == 1 else ""
        ax.plot(_share(history), values, color=palette[layer], linewidth=1.2, marker=marker, ms=3)
    ax.set_xlabel("share of the steps")
    ax.set_xlim(0, 1)
    ax.grid(axis="y")
    if column in {"error", "rest"}:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        ax.yaxis.set_minor_formatter(NullFormatter())
    elif column == "explained_variance":
        ax.set_ylim(min(0.5, *(h[column].quantile(0.05) for _, h in curves)), 1.0)
    elif column == "dead_share":
        ax.set_ylim(0, max(0.05, *(1.05 * h[column].max() for _, h in curves)))
    else:
        ax.set_ylim(bottom=0)


def _share(history: pd.DataFrame) -> pd.Series:
    return history["step"] / max(1, history["step"].max())
