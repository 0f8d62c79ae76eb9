"""Step: how a prediction changes as more of the top latents are kept, or dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mammo_sae.errors import InputError
from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

MODES = {"on": "top-k on: only these are kept", "off": "top-k off: these are dropped"}
NAMES = {
    "auroc": "AUROC",
    "class_mean": "class mean",
    "mean_difference": "mean difference",
    "effect": "effect size",
    "class_union": "class mean, both classes",
    "random": "random sets",
}
LINES = {"class_union": (0, (3, 1.5))}  # it often runs along the class mean's


def run(*, interventions: Path, concept: str, output: Path) -> None:
    """Draw one SAE's interventions on one concept: AUROC against the number of latents.

    Parameters
    ----------
    interventions
        Table that the step interventions wrote.
    output
        PNG to write.

    Raises
    ------
    InputError
        If the table has no row of the concept.
    """
    table = read_table(interventions)
    table = table[table["concept"] == concept]
    if table.empty:
        raise InputError(f"{interventions} has no row of concept {concept}; run its step again")
    first = table.iloc[0]
    splits = [s for s in ("training", "validation", "test", "external") if s in set(table["split"])]
    width, height = 9.6, 0.95 + 2.55 * len(splits)
    with style.figure(output, width, height) as fig:
        style.heading(
            fig,
            f"What the prediction of {style.words(concept)} rests on · {first['encoder']} · "
            f"{first['layer']} · SAE {first['sae']} seed {first['seed']}",
        )
        grid = fig.add_gridspec(
            len(splits),
            len(MODES),
            left=0.065,
            right=0.8,
            top=1 - 0.72 / height,
            bottom=0.48 / height,
            hspace=0.42,
            wspace=0.1,
        )
        for i, split in enumerate(splits):
            here = table[table["split"] == split]
            curves = here.loc[here["splice"] == "spliced", "auroc"]
            low = float(np.nanmin([curves.min() - 0.05, 0.4]))
            for j, mode in enumerate(MODES):
                ax = fig.add_subplot(grid[i, j])
                _panel(ax, here, mode, low)
                ax.set_title(f"{split} · {MODES[mode]}")
                ax.set_xlabel("k, latents in the order of the ranking")
                if j:
                    ax.set_yticklabels([])
                else:
                    ax.set_ylabel("AUROC")
        _legend(fig, table)


def _panel(ax: Axes, rows: pd.DataFrame, mode: str, low: float) -> None:
    spliced = rows[rows["splice"] == "spliced"]
    edited = spliced[spliced["mode"] == mode].sort_values("k", kind="stable")
    most = int(edited["k"].max())
    ax.set_xscale("symlog", linthresh=1, linscale=0.4)
    for ranking, colour in style.RANKING_COLOURS.items():
        selection = "random" if ranking == "random" else "ranked"
        curve = edited[(edited["ranking"] == ranking) & (edited["selection"] == selection)]
        if curve.empty:
            continue
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
    for value, dashes in zip(baselines(rows), ("solid", (0, (5, 2))), strict=True):
        ax.axhline(value, color=style.INK, linewidth=0.9, linestyle=dashes, zorder=1)
    ax.axhline(0.5, color=style.FAINT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    ax.set_xlim(-0.08, most * 1.15)
    ticks = [k for k in (0, 1, 10, 100, 1000, 10000) if k < most * 0.7] + [most]
    ax.set_xticks(ticks, [f"{k}" for k in ticks])
    ax.minorticks_off()
    ax.set_ylim(low, 1.02)
    ax.grid(axis="y")


def baselines(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the AUROC of the network as it is, and with the whole reconstruction spliced in.

    Both are edits of the table: with nothing dropped, the error-preserving logit is the network's
    own, and the spliced one that of the SAE's reconstruction.
    """
    nothing = rows[(rows["mode"] == "off") & (rows["k"] == 0) & (rows["selection"] == "ranked")]
    by_splice = nothing.groupby("splice", sort=True)["auroc"].first()
    return float(by_splice["error_preserving"]), float(by_splice["spliced"])


def _legend(fig: Figure, table: pd.DataFrame) -> None:
    present = set(table["ranking"])
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            marker="o",
            markersize=3.5,
            linestyle=LINES.get(name, "solid"),
            label=NAMES[name],
        )
        for name, colour in style.RANKING_COLOURS.items()
        if name in present
    ]
    handles += [
        Line2D([], [], color=style.INK, linewidth=0.9, label="network as it is"),
        Line2D(
            [],
            [],
            color=style.INK,
            linewidth=0.9,
            linestyle=(0, (5, 2)),
            label="all latents spliced",
        ),
        Line2D([], [], color=style.FAINT, linewidth=0.8, linestyle=(0, (1, 2)), label="chance"),
    ]
    fig.legend(handles=handles, loc="center left", bbox_to_anchor=(0.805, 0.5), labelspacing=0.7)
