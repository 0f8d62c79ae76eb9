"""Step: draw how often verdicts agree with the phantom's ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

MEASURES = {
    "recall": "artefact's latents called (recall)",
    "precision": "called latents that respond (precision)",
    "false_positive_rate": "clean latents called (false positives)",
}


def run(*, truth: Path, output: Path) -> list[Path]:
    """Draw recall, precision and false positives of verdicts, per encoder, layer and confounder.

    Parameters
    ----------
    truth
        The table `truth` of all SAEs.
    output
        PNG to write.
    """
    table = read_table(truth)
    if table.empty:
        style.absent(output, "Verdicts against the ground truth", "the table truth has no row")
        return [output]
    encoders = sorted(table["encoder"].unique())
    table = table.assign(run=[_name(row) for row in table.to_dict("records")])
    names = sorted(set(table["confounder"]) - {"any"})
    palette = style.colours(names, style.CONFOUNDER_COLOURS)
    palette["any"] = style.INK
    layers = style.layer_order(table["layer"])
    runs = table[["layer", "sae", "seed", "run"]].drop_duplicates()
    runs = runs.sort_values(
        ["layer", "sae", "seed"],
        key=lambda column: column.map(layers.index) if column.name == "layer" else column,
    )["run"].unique()
    row_height = 0.55 + 0.16 * len(runs) * len(palette)
    width, height = 13.2, 1.05 + row_height * len(encoders)
    with style.figure(output, width, height) as fig:
        style.heading(
            fig,
            f"Verdicts against the ground truth · {style.words(table['concept'].iloc[0])}",
            "called: verdict confounded or mixed; 95 % Clopper-Pearson intervals over latents",
        )
        grid = fig.add_gridspec(
            len(encoders),
            len(MEASURES),
            left=0.095,
            right=0.985,
            top=1 - 0.95 / height,
            bottom=0.4 / height,
            hspace=0.45 / (row_height - 0.4),
            wspace=0.1,
        )
        for i, encoder in enumerate(encoders):
            here = table[table["encoder"] == encoder]
            for j, (measure, title) in enumerate(MEASURES.items()):
                ax = fig.add_subplot(grid[i, j])
                _panel(ax, here[here["measure"] == measure], list(runs), palette)
                ax.set_title(f"{encoder}: {title}")
                if j:
                    ax.set_yticklabels([])
        style.legend(fig, palette)
    return [output]


def _name(row: dict[str, object]) -> str:
    return f"{row['layer']}\n{row['sae']} seed {row['seed']}"


def _panel(ax: Axes, rows: pd.DataFrame, runs: list[str], palette: dict[str, str]) -> None:
    lane = 0.8 / len(palette)
    for row in rows.to_dict("records"):
        number = list(palette).index(row["confounder"])
        y = runs.index(row["run"]) + (number - (len(palette) - 1) / 2) * lane
        colour = palette[row["confounder"]]
        if np.isnan(row["value"]):
            said = "not tested" if row["latents"] else "no such latent"
            ax.text(0.01, y, said, va="center", size=6.5, color=style.FAINT)
            continue
        ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.6, alpha=0.6)
        hollow = row["role"] != "planted"
        ax.plot(
            row["value"],
            y,
            "o",
            markersize=5,
            markeredgecolor=colour,
            markerfacecolor="white" if hollow else colour,
        )
        ax.text(
            1.03,
            y,
            f"{row['hits']}/{row['latents']}",
            va="center",
            size=6.5,
            color=colour,
        )
    for place in range(len(runs) - 1):
        ax.axhline(place + 0.5, color=style.RULE, linewidth=0.8)
    ax.set_xlim(-0.02, 1.13)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_ylim(len(runs) - 0.5, -0.5)
    ax.set_yticks(range(len(runs)), runs)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
