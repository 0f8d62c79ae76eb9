"""Step: draw how well each encoder predicts each concept in each split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

METRICS = {"auroc": "AUROC", "auprc": "AUPRC"}


def run(*, encoders: Path, output: Path) -> list[Path]:
    """Draw AUROC and AUPRC of all encoders with intervals, and chance.

    Parameters
    ----------
    encoders
        Table of all encoders' scores.
    output
        PNG to write.
    """
    table = read_table(encoders)
    concepts = sorted(table["concept"].unique())
    splits = style.splits_of(table["split"])
    palette = style.colours(table["encoder"], style.ENCODER_COLOURS)
    row_height = 0.65 + len(splits) * (0.12 + 0.17 * len(palette))
    width, height = 9.2, 1.15 + row_height * len(concepts)
    with style.figure(output, width, height) as fig:
        style.heading(
            fig,
            "How well the encoders predict",
            "95 % patient-bootstrap intervals; dashed: chance (AUPRC: share of positive images)",
        )
        grid = fig.add_gridspec(
            len(concepts),
            len(METRICS),
            left=0.1,
            right=0.985,
            top=1 - 0.95 / height,
            bottom=0.42 / height,
            wspace=0.16,
            hspace=0.6 / (row_height - 0.5),
        )
        for i, concept in enumerate(concepts):
            for j, metric in enumerate(METRICS):
                ax = fig.add_subplot(grid[i, j])
                _panel(ax, table[table["concept"] == concept], metric, splits, palette)
                ax.set_title(f"{style.words(concept)}: {METRICS[metric]}")
                if j:
                    ax.set_yticklabels([])
        style.legend(fig, palette)
    return [output]


def _panel(
    ax: Axes, rows: pd.DataFrame, metric: str, splits: list[str], palette: dict[str, str]
) -> None:
    lane = 0.72 / len(palette)
    for place, split in enumerate(splits):
        here = rows[rows["split"] == split].set_index("encoder")
        for number, (encoder, colour) in enumerate(palette.items()):
            if encoder not in here.index:
                continue
            row = here.loc[encoder]
            y = place + (number - (len(palette) - 1) / 2) * lane
            if np.isnan(row[metric]):
                ax.text(
                    0.02,
                    y,
                    f"not estimable: {row['reason']}",
                    transform=ax.get_yaxis_transform(),
                    va="center",
                    size=6.5,
                    color=colour,
                )
                continue
            low, high = row[f"{metric}_low"], row[f"{metric}_high"]
            ax.plot([low, high], [y, y], color=colour, linewidth=1.8, solid_capstyle="round")
            ax.plot(row[metric], y, "o", color=colour, markersize=5)
            inside = low > 0.45
            ax.text(
                low - 0.015 if inside else high + 0.015,
                y,
                f"{row[metric]:.2f}",
                va="center",
                ha="right" if inside else "left",
                size=7,
                color=colour,
            )
        chance = 0.5 if metric == "auroc" else here["prevalence"].mean()
        ax.plot(
            [chance, chance],
            [place - 0.42, place + 0.42],
            color=style.FAINT,
            linewidth=1,
            linestyle=(0, (3, 2)),
        )
    lowest = rows["auroc_low"].min()
    ax.set_xlim(0.0 if metric == "auprc" or lowest < 0.3 else 0.3, 1.01)
    ax.set_ylim(len(splits) - 0.45, -0.55)
    ax.set_yticks(range(len(splits)), splits)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
