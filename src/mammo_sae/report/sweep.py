"""Step: a prediction's AUROC for every number of latents kept or dropped, encoder by encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mammo_sae.errors import InputError
from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

SPLIT = "test"
MODES = {"on": "first k on", "off": "first k off"}
COLOURS = {**style.RANKING_COLOURS, "class_contrast": "#882255"}


def run(
    *, sweeps: Sequence[Path], interventions: Path, concept: str, sae: str, output: Path
) -> None:
    """Draw one named SAE's interventions on one concept, a row per encoder, all layers.

    Parameters
    ----------
    sweeps
        Curves over every k that `interventions` wrote for the head layer.
    interventions
        Table `interventions` of all SAEs and layers: values with intervals at the configured k.
    output
        PNG to write.

    Raises
    ------
    InputError
        If the table has no row of the SAE and concept.
    """
    table = read_table(interventions)
    table = table[(table["concept"] == concept) & (table["sae"] == sae)]
    table = table[(table["split"] == SPLIT) & (table["splice"] == "spliced")]
    if table.empty:
        raise InputError(
            f"{interventions} has no {SPLIT} row of concept {concept} and SAE {sae}; "
            "run its step again"
        )
    curves = [read_table(path) for path in sweeps]
    curve = pd.concat(curves, ignore_index=True) if curves else table.iloc[:0]
    curve = curve[(curve["concept"] == concept) & (curve["sae"] == sae)]
    curve = curve[curve["split"] == SPLIT]
    encoders = sorted(table["encoder"].unique())
    panels = [(layer, mode) for layer in style.layer_order(table["layer"]) for mode in MODES]
    width, height = 0.9 + 2.9 * len(panels), 1.5 + 2.4 * len(encoders)
    with style.figure(output, width, height) as fig:
        style.heading(
            fig,
            f"Latents kept or dropped, every k · {style.words(concept)} · SAE {sae}",
            f"{SPLIT} split, spliced; first seed; dots: configured k, 95 % patient bootstrap",
        )
        grid = fig.add_gridspec(
            len(encoders),
            len(panels),
            left=0.62 / width,
            right=1 - 0.15 / width,
            top=1 - 0.95 / height,
            bottom=0.85 / height,
            hspace=0.5,
            wspace=0.12,
        )
        for i, encoder in enumerate(encoders):
            for j, (layer, mode) in enumerate(panels):
                ax = fig.add_subplot(grid[i, j])
                here = [_of(rows, encoder, layer, mode) for rows in (table, curve)]
                ax.set_title(f"{encoder} · {layer} · {MODES[mode]}", fontsize=8.5)
                if here[0]["auroc"].isna().all():
                    reasons = here[0]["reason"].unique() if len(here[0]) else ["not run"]
                    style.empty(ax, f"not estimable: {reasons[0]}")
                    continue
                _panel(ax, *here)
                ax.set_xlabel("k")
                if j:
                    ax.set_yticklabels([])
                else:
                    ax.set_ylabel("AUROC")
        present = set(table["ranking"])
        fig.legend(
            handles=[
                Line2D([], [], color=colour, label=style.words(name))
                for name, colour in COLOURS.items()
                if name in present
            ],
            loc="lower center",
            ncols=len(present),
        )


def _of(rows: pd.DataFrame, encoder: str, layer: str, mode: str) -> pd.DataFrame:
    """Return the rows of one panel, of the first seed."""
    rows = rows[(rows["encoder"] == encoder) & (rows["layer"] == layer) & (rows["mode"] == mode)]
    return rows[rows["seed"] == rows["seed"].min()]


def _panel(ax: Axes, rows: pd.DataFrame, curve: pd.DataFrame) -> None:
    ax.set_xscale("symlog", linthresh=1, linscale=0.4)
    for ranking, colour in COLOURS.items():
        selection = "random" if ranking == "random" else "ranked"
        points = rows[(rows["ranking"] == ranking) & (rows["selection"] == selection)]
        points = points.sort_values("k", kind="stable")
        if points.empty:
            continue
        line = curve[curve["ranking"] == ranking].sort_values("k", kind="stable")
        drawn = line if len(line) else points
        ax.plot(drawn["k"], drawn["auroc"], color=colour, linewidth=1.1)
        spread = np.abs(points[["auroc_low", "auroc_high"]].to_numpy().T - points["auroc"].array)
        ax.errorbar(
            points["k"],
            points["auroc"],
            yerr=spread,
            fmt="o",
            color=colour,
            markersize=2.6,
            elinewidth=0.7,
        )
    style.reference(ax, 0.5)
    most = int(rows["k"].max())
    ticks = [k for k in (0, 1, 10, 100, 1000, 10000) if k < most * 0.7] + [most]
    ax.set_xticks(ticks, [f"{k}" for k in ticks])
    ax.minorticks_off()
    ax.set_ylim(0, 1.02)
    ax.grid(axis="y")
