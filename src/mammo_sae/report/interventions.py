"""Step: draw a prediction's AUROC against the number of top latents that are kept or dropped."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

MODES = {"on": "only the first k are kept", "off": "the first k are dropped"}
SPLICES = {
    "spliced": "the edited reconstruction",
    "error_preserving": "the embedding minus the dropped latents",
    "mean_ablated": "the embedding with dropped latents at their mean",
}
# Dashed, since these often coincide with the class mean and the mean difference.
LINES: dict[str, LineStyleType] = {"class_union": (0, (3, 1.5)), "both_ends": (0, (3, 1.5))}


def run(*, interventions: Path, concept: str, output: Path) -> list[Path]:
    """Draw what a prediction loses as latents are kept or dropped.

    Parameters
    ----------
    interventions
        Table that the step interventions wrote.
    concept
        Name of the concept.
    output
        PNG to write.
    """
    table = read_table(interventions)
    table = table[table["concept"] == concept]
    title = f"What the prediction of {style.words(concept)} depends on"
    if table.empty:
        style.absent(output, title, f"the table interventions has no row of {concept}")
        return [output]
    first = table.iloc[0]
    splits = style.splits_of(table["split"])
    splice = shown_splice(table["splice"])
    width, height = 9.8, 1.15 + 2.75 * len(splits)
    with style.figure(output, width, height) as fig:
        run_of = f"{first['encoder']} · {first['layer']} · SAE {first['sae']} seed {first['seed']}"
        style.heading(fig, f"{title} · {run_of}", f"read from: {SPLICES.get(splice, splice)}")
        grid = fig.add_gridspec(
            len(splits),
            len(MODES),
            left=0.065,
            right=0.79,
            top=1 - 0.95 / height,
            bottom=0.5 / height,
            hspace=0.45,
            wspace=0.1,
        )
        for i, split in enumerate(splits):
            here = table[table["split"] == split]
            curves = here.loc[here["splice"] == splice, "auroc"]
            low = float(np.nanmin([curves.min() - 0.05, 0.4]))
            for j, mode in enumerate(MODES):
                ax = fig.add_subplot(grid[i, j])
                ax.set_title(f"{split} split: {MODES[mode]}")
                _panel(ax, here, mode, splice, low)
                ax.set_xlabel("k, latents in the order of the ranking")
                if j:
                    ax.set_yticklabels([])
                else:
                    ax.set_ylabel("AUROC")
        _legend(fig, table)
    return [output]


def shown_splice(names: pd.Series) -> str:
    """Return the splice to draw: the first of `SPLICES` that the table has."""
    present = set(names)
    return next((name for name in SPLICES if name in present), "")


def _panel(ax: Axes, rows: pd.DataFrame, mode: str, splice: str, low: float) -> None:
    edited = rows[(rows["splice"] == splice) & (rows["mode"] == mode)]
    edited = edited.sort_values("k", kind="stable")
    if edited["auroc"].isna().all():
        style.empty(ax, style.reasons(rows))
        return
    for ranking, (_, colour) in style.rankings(rows["ranking"]).items():
        curve = edited[(edited["ranking"] == ranking) & (edited["selection"] != "matched")]
        control = ranking == "random"
        ax.fill_between(
            curve["k"],
            curve["auroc_low"],
            curve["auroc_high"],
            color=colour,
            alpha=0.22 if control else 0.1,
            linewidth=0,
        )
        ax.plot(
            curve["k"],
            curve["auroc"],
            color=colour,
            linewidth=1.2 if control else 1.6,
            linestyle=LINES.get(ranking, "solid"),
            marker="o",
            markersize=2.6 if control else 3.4,
            zorder=2 if control else 3,
        )
    line_types: tuple[LineStyleType, LineStyleType] = ("solid", (0, (5, 2)))
    for value, dashes in zip(baselines(rows), line_types, strict=True):
        if not math.isnan(value):
            ax.axhline(value, color=style.INK, linewidth=0.9, linestyle=dashes, zorder=1)
    ax.axhline(0.5, color=style.FAINT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    style.counts_axis(ax, int(edited["k"].max()))
    ax.set_ylim(low, 1.02)
    ax.grid(axis="y")


def baselines(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the AUROC of the unchanged network, and that of the SAE's full reconstruction.

    Both come from edits of the table that drop no latent: "off" with k = 0, or "on" with all
    latents. With the splice `error_preserving`, such an edit gives the network's own logit. With
    `spliced`, it gives the logit of the reconstruction. NaN if the table lacks the edit.
    """
    nothing = (rows["mode"] == "off") & (rows["k"] == 0)
    everything = (rows["mode"] == "on") & (rows["k"] == rows["k"].max())
    whole = rows[(nothing | everything) & (rows["selection"] == "ranked")]
    by_splice = whole.groupby("splice", sort=True)["auroc"].first()
    return (
        float(by_splice.get("error_preserving", math.nan)),
        float(by_splice.get("spliced", math.nan)),
    )


def _legend(fig: Figure, table: pd.DataFrame) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            marker="o",
            markersize=3.5,
            linestyle=LINES.get(name, "solid"),
            label=label,
        )
        for name, (label, colour) in style.rankings(table["ranking"]).items()
    ]
    network, spliced = baselines(table)
    lines: list[tuple[str, LineStyleType, str, bool]] = [
        ("network without SAE", "solid", style.INK, math.isnan(network)),
        ("all latents spliced", (0, (5, 2)), style.INK, math.isnan(spliced)),
        ("chance", (0, (1, 2)), style.FAINT, False),
    ]
    handles += [
        Line2D([], [], color=colour, linewidth=0.9, linestyle=dashes, label=label)
        for label, dashes, colour, missing in lines
        if not missing
    ]
    fig.legend(handles=handles, loc="center left", bbox_to_anchor=(0.795, 0.5), labelspacing=0.7)
