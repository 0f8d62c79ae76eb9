"""Step: how the SAEs of one encoder were trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mammo_sae.errors import InputError
from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

PANELS = {
    "loss": "loss per cell",
    "explained_variance": "explained variance",
    "dead_share": "share of dead latents",
    "lr": "learning rate × 1,000",
}


def run(
    *, histories: Sequence[Path], layers: Sequence[str], encoder: str, sae: str, output: Path
) -> None:
    """Draw the training curves of one encoder's SAEs of one kind: a line per layer and seed.

    Parameters
    ----------
    histories
        Training logs (.csv), one per SAE.
    layers
        The layer of each of them, in the same order.
    encoder, sae
        Names for the title.
    output
        PNG to write.

    Raises
    ------
    InputError
        If there are not as many layers as histories.
    """
    if len(histories) != len(layers):
        raise InputError(f"{len(histories)} training logs but {len(layers)} layers; give one each")
    curves = [(layer, read_table(path)) for layer, path in zip(layers, histories, strict=True)]
    order = style.layer_order(layers)
    ramp = mpl.colormaps["viridis"]
    palette = {layer: ramp(0.85 * i / max(1, len(order) - 1)) for i, layer in enumerate(order)}
    width, height = 11.0, 3.0
    with style.figure(output, width, height) as fig:
        style.heading(fig, f"Training of the SAEs · {encoder} · {sae}")
        grid = fig.add_gridspec(
            1, len(PANELS), left=0.055, right=0.985, top=0.75, bottom=0.16, wspace=0.3
        )
        for place, (column, title) in enumerate(PANELS.items()):
            ax = fig.add_subplot(grid[place])
            for layer, history in curves:
                values = history[column] * (1000 if column == "lr" else 1)
                ax.plot(_share(history), values, color=palette[layer], linewidth=1.4)
            ax.set_title(title)
            ax.set_xlabel("share of the steps")
            ax.set_xlim(0, 1)
            ax.grid(axis="y")
            if column == "loss":
                ax.set_yscale("log")
                ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                ax.yaxis.set_minor_formatter(NullFormatter())
            elif column == "explained_variance":
                ax.set_ylim(min(0.5, *(h[column].quantile(0.05) for _, h in curves)), 1.0)
            elif column == "dead_share":
                ax.set_ylim(0, max(0.05, *(1.05 * h[column].max() for _, h in curves)))
            else:
                ax.set_ylim(bottom=0)
        style.legend(fig, palette, markers="s")


def _share(history: pd.DataFrame) -> pd.Series:
    return history["step"] / history["step"].max()
