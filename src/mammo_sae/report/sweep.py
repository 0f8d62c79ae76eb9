"""Step: draw a prediction's AUROC for all numbers of latents kept or dropped, by encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import Transform, offset_copy

from mammo_sae.report import style
from mammo_sae.report.interventions import SPLICES, shown_splice
from mammo_sae.stores.tables import read_table

MODES = {"on": "first k kept", "off": "first k dropped"}


def run(
    *,
    interventions: Path,
    concept: str,
    sae_name: str,
    layer_splits: Mapping[str, str],
    output: Path,
    sweeps: Sequence[Path] = (),
) -> list[Path]:
    """Draw one named SAE's interventions on one concept: a row per encoder, all layers.

    Parameters
    ----------
    sweeps
        Curves over all k that `interventions` wrote for the head layer.
    interventions
        Table `interventions` of all SAEs and layers: values with intervals at the configured k.
    concept
        Name of the concept.
    sae_name
        Name of the SAE in the configuration.
    layer_splits
        For each layer, the split to draw.
    output
        PNG to write.
    """
    # Only the rows of the figure are kept of each curve, which has a row for every k.
    curves = [_of_sae(read_table(path), concept, sae_name, layer_splits) for path in sweeps]
    table = _of_sae(read_table(interventions), concept, sae_name, layer_splits)
    title = f"Latents kept or dropped · {style.words(concept)} · SAE {sae_name}"
    if table.empty:
        reason = (
            f"the table interventions has no row of SAE {sae_name} and {concept} in the split shown"
        )
        style.absent(output, title, reason)
        return [output]
    splice = shown_splice(table["splice"])
    curve = pd.concat(curves, ignore_index=True) if curves else table.iloc[:0]
    # The curve belongs to the edited reconstruction, so it is not drawn with another splice.
    curve = curve if splice == "spliced" else curve.iloc[:0]
    encoders = sorted(table["encoder"].unique())
    panels = [(layer, mode) for layer in style.layer_order(table["layer"]) for mode in MODES]
    width, height = 0.9 + 3.0 * len(panels), 1.75 + 2.5 * len(encoders)
    names = style.rankings(table["ranking"])
    with style.figure(output, width, height) as fig:
        first = f"logits from: {SPLICES.get(splice, splice)}; first seed"
        dots = "dots: the k that were measured, with 95 % intervals; lines: every k"
        style.heading(fig, title, f"{first}\n{dots}")
        grid = fig.add_gridspec(
            len(encoders),
            len(panels),
            left=0.62 / width,
            right=1 - 0.15 / width,
            top=1 - 1.1 / height,
            bottom=0.95 / height,
            hspace=0.55,
            wspace=0.14,
        )
        for i, encoder in enumerate(encoders):
            for j, (layer, mode) in enumerate(panels):
                ax = fig.add_subplot(grid[i, j])
                ax.set_title(
                    f"{encoder} · {layer} · {layer_splits[layer]}\n{MODES[mode]}", fontsize=8.5
                )
                points, line = (_of(rows, encoder, layer, mode) for rows in (table, curve))
                points = points[points["splice"] == splice]
                if points["auroc"].isna().all():
                    why = table[(table["encoder"] == encoder) & (table["layer"] == layer)]
                    style.empty(ax, style.reasons(why), 30)
                    continue
                _panel(ax, points, line, names)
                ax.set_xlabel("k, number of latents")
                if j:
                    ax.set_yticklabels([])
                else:
                    ax.set_ylabel("AUROC")
        fig.legend(
            handles=[
                Line2D([], [], color=c, marker="o", markersize=3, label=label)
                for label, c in names.values()
            ],
            loc="lower center",
            ncols=max(1, min(len(names), int(width / 1.4))),
        )
    return [output]


def _of_sae(rows: pd.DataFrame, concept: str, sae: str, splits: Mapping[str, str]) -> pd.DataFrame:
    rows = rows[(rows["concept"] == concept) & (rows["sae"] == sae)]
    return rows[rows["split"] == rows["layer"].map(splits)]


def _of(rows: pd.DataFrame, encoder: str, layer: str, mode: str) -> pd.DataFrame:
    """Return the rows of one panel for the first seed."""
    rows = rows[(rows["encoder"] == encoder) & (rows["layer"] == layer) & (rows["mode"] == mode)]
    return rows[rows["seed"] == rows["seed"].min()]


def _panel(
    ax: Axes, rows: pd.DataFrame, curve: pd.DataFrame, names: Mapping[str, tuple[str, str]]
) -> None:
    for number, (ranking, (_, colour)) in enumerate(names.items()):
        line = curve[curve["ranking"] == ranking].sort_values("k", kind="stable")
        # The AUROC between the dots of `rows` is not measured, so no line joins the dots.
        ax.plot(line["k"], line["auroc"], color=colour, linewidth=1.1)
        points = rows[(rows["ranking"] == ranking) & (rows["selection"] != "matched")]
        # Without lines, dots of equal k stand side by side, in the order of the legend.
        beside = _aside(ax, number - (len(names) - 1) / 2 if curve.empty else 0)
        style_: dict[str, Any] = {"color": colour, "transform": beside, "zorder": 3}
        ax.vlines(points["k"], points["auroc_low"], points["auroc_high"], linewidth=0.7, **style_)
        ax.plot(points["k"], points["auroc"], "o", markersize=3.2, **style_)
    style.reference(ax, 0.5)
    style.counts_axis(ax, int(rows["k"].max()))
    ax.set_ylim(0, 1.02)
    ax.grid(axis="y")


def _aside(ax: Axes, places: float) -> Transform:
    return offset_copy(ax.transData, ax.get_figure(root=True), x=2.4 * places, y=0, units="points")
