"""Step: what probes read from layer to layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mammo_sae.errors import InputError
from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

SPLIT = "test"
COLUMNS = 4
# What is drawn of the table: (features, probe, k) -> name and line.
PROBES = {
    ("embedding", "l2", 0): ("embedding, L2", "solid", "o"),
    ("codes", "l2", 0): ("all latents, L2", (0, (5, 2)), "s"),
    ("codes", "sparse", 5): ("5 latents", (0, (2, 1.5)), "^"),
    ("codes", "sparse", 1): ("1 latent", (0, (1, 1.5)), "v"),
}


def run(*, probes: Path, sae: str, output: Path) -> None:
    """Draw the AUROC of probes against layers, a panel per concept and confounder.

    Parameters
    ----------
    probes
        Table `probes` of all SAEs.
    output
        PNG to write.

    Raises
    ------
    InputError
        If the table holds no such SAE.
    """
    table = read_table(probes)
    table = table[(table["sae"] == sae) & (table["split"] == SPLIT)]
    if table.empty:
        raise InputError(f"{probes} has no {SPLIT} row of SAE {sae!r}; run its step again")
    # Of a column with several levels the macro mean is shown, of others the only level.
    many = table.groupby("target")["level"].transform(lambda level: (level == "macro").any())
    table = table[~many | (table["level"] == "macro")]
    layers = style.layer_order(table["layer"])
    palette = style.colours(table["encoder"], style.ENCODER_COLOURS)
    targets = list(dict.fromkeys(table["target"]))
    columns = min(COLUMNS, max(2, len(targets)))
    rows = -(-len(targets) // columns)
    width, height = 0.7 + 2.7 * columns, 1.5 + 2.3 * rows
    with style.figure(output, width, height) as fig:
        style.heading(
            fig,
            f"What can be read from a layer · SAE {sae}",
            f"AUROC on the {SPLIT} split of probes fitted in discovery; mean over seeds, "
            "95 % patient bootstrap of the first",
        )
        grid = fig.add_gridspec(
            rows,
            columns,
            left=0.62 / width,
            right=1 - 0.15 / width,
            top=1 - 0.95 / height,
            bottom=0.7 / height,
            hspace=0.5,
            wspace=0.2,
        )
        for place, target in enumerate(targets):
            ax = fig.add_subplot(grid[place // columns, place % columns])
            here = table[table["target"] == target]
            ax.set_title(f"{style.words(target)} ({here['kind'].iloc[0]})")
            if here["auroc"].isna().all():
                style.empty(ax, f"not estimable: {here['reason'].iloc[0]}")
                continue
            _panel(ax, here, layers, palette)
        style.legend(fig, palette)
        fig.legend(
            handles=[
                Line2D([], [], color=style.INK, linestyle=line, marker=marker, label=name)
                for name, line, marker in PROBES.values()
            ],
            loc="lower center",
            ncols=len(PROBES),
        )


def _panel(ax: Axes, rows: pd.DataFrame, layers: list[str], palette: dict[str, str]) -> None:
    k = rows["k"].fillna(0).astype(int)
    for number, (encoder, colour) in enumerate(palette.items()):
        shift = 0.08 * (number - (len(palette) - 1) / 2)
        for (features, probe, latents), (_, line, marker) in PROBES.items():
            wanted = (rows["features"] == features) & (rows["probe"] == probe) & (k == latents)
            here = rows[wanted & (rows["encoder"] == encoder)].sort_values("seed", kind="stable")
            if here.empty:
                continue
            x = np.arange(len(layers)) + shift
            means = here.groupby("layer")["auroc"].mean().reindex(layers)
            ax.plot(x, means, color=colour, linestyle=line, marker=marker, markersize=3.4)
            first = here.groupby("layer")[["auroc_low", "auroc_high"]].first().reindex(layers)
            ax.vlines(
                x, first["auroc_low"], first["auroc_high"], color=colour, linewidth=0.7, alpha=0.6
            )
    style.reference(ax, 0.5)
    ax.set_xticks(range(len(layers)), layers)
    ax.set_xlim(-0.35, len(layers) - 0.65)
    ax.set_ylim(top=1.02)
    ax.grid(axis="y")
