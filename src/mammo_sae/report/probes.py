"""Step: draw the AUROC of probes against the layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from mammo_sae.errors import InputError
from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

COLUMNS = 4
Drawn = tuple[str, LineStyleType, str]  # name, line, marker

# The drawn probes of the table: (features, probe) -> name, line and marker. Sparse probes are drawn
# for the smallest and the largest number of latents that the table has.
PROBES: dict[tuple[str, str], Drawn] = {
    ("embedding", "l2"): ("embedding, L2", "solid", "o"),
    ("codes", "l2"): ("all latents, L2", (0, (5, 2)), "s"),
}
SPARSE: dict[str, tuple[LineStyleType, str]] = {
    "most": ((0, (2, 1.5)), "^"),
    "fewest": ((0, (1, 1.5)), "v"),
}


def run(*, probes: Path, sae_name: str, split: str, output: Path) -> list[Path]:
    """Draw what can be read from layer to layer, a panel per concept and confounder.

    Parameters
    ----------
    probes
        Table `probes` of all SAEs.
    sae_name
        Name of the SAE in the configuration.
    split
        The split whose scores are drawn.
    output
        PNG to write.

    Raises
    ------
    InputError
        If the table has rows, but none of this SAE.
    """
    table = read_table(probes)
    if len(table) and sae_name not in set(table["sae"]):
        raise InputError(
            f"{probes} has no row of SAE {sae_name!r}; give the name of one that it has"
        )
    title = f"What can be read from a layer · SAE {sae_name}"
    table = table[(table["sae"] == sae_name) & (table["split"] == split)]
    if table.empty:
        style.absent(output, title, f"the table probes has no row of the {split} split")
        return [output]
    # A column with several levels is shown by its macro mean, another column by its only level.
    many = table.groupby("target")["level"].transform(lambda level: (level == "macro").any())
    table = table[~many | (table["level"] == "macro")]
    drawn = shown_probes(table)
    layers = style.layer_order(table["layer"])
    palette = style.colours(table["encoder"], style.ENCODER_COLOURS)
    targets = list(dict.fromkeys(table["target"]))
    columns = min(COLUMNS, max(2, len(targets)))
    rows = -(-len(targets) // columns)
    width, height = 0.7 + 2.9 * columns, 1.7 + 2.4 * rows
    with style.figure(output, width, height) as fig:
        style.heading(
            fig,
            title,
            f"AUROC in the {split} split of probes fitted in the discovery split; dots: mean over "
            "seeds; bars: 95 % patient bootstrap of the first seed",
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
                style.empty(ax, style.reasons(here))
                continue
            _panel(ax, here, layers, palette, drawn)
        style.legend(fig, palette)
        fig.legend(
            handles=[
                Line2D([], [], color=style.INK, linestyle=line, marker=marker, label=name)
                for name, line, marker in drawn.values()
            ],
            loc="lower center",
            ncols=len(drawn),
        )
    return [output]


def shown_probes(table: pd.DataFrame) -> dict[tuple[str, str, int], Drawn]:
    """Return the drawn probes of a table: (features, probe, k) -> name, line, marker."""
    present = set(zip(table["features"], table["probe"], strict=True))
    drawn = {
        (features, probe, 0): entry
        for (features, probe), entry in PROBES.items()
        if (features, probe) in present
    }
    numbers = sorted({int(k) for k in table.loc[table["probe"] == "sparse", "k"].dropna()})
    for k, (line, marker) in zip(
        numbers[:: len(numbers) - 1 or 1][::-1], SPARSE.values(), strict=False
    ):
        drawn["codes", "sparse", k] = (f"{k} latent{'s' if k > 1 else ''}", line, marker)
    return drawn


def _panel(
    ax: Axes,
    rows: pd.DataFrame,
    layers: list[str],
    palette: dict[str, str],
    drawn: dict[tuple[str, str, int], Drawn],
) -> None:
    k = rows["k"].fillna(0).astype(int)
    for number, (encoder, colour) in enumerate(palette.items()):
        shift = 0.08 * (number - (len(palette) - 1) / 2)
        for (features, probe, latents), (_, line, marker) in drawn.items():
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
