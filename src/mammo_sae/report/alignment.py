"""Step: draw the alignment of latents beside Grad-CAM and integrated gradients, and by size."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mammo_sae.errors import InputError
from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

PANEL = 2.9  # inches
SIZES = ("small", "medium", "large")
RANKED, MATCHED, PRIOR = "ranked latents", "random latents", "lesion locations"
CAM, GRADIENTS = "Grad-CAM", "integrated gradients"
# Name -> colour, marker, and place beside the tick.
DRAWN = {
    RANKED: ("#0072B2", "o", -0.24),
    MATCHED: ("#8A94A0", "o", -0.08),
    PRIOR: ("#009E73", "s", 0.06),
    CAM: ("#D55E00", "D", 0.18),
    GRADIENTS: ("#E69F00", "^", 0.30),
}
METHODS = {"grad_cam": CAM, "integrated_gradients": GRADIENTS}


@dataclass(frozen=True)
class _Rows:
    """The rows of one encoder and concept."""

    layers: Sequence[str]
    alignment: pd.DataFrame
    by_size: pd.DataFrame
    saliency: pd.DataFrame


def run(
    *,
    alignment: Path,
    alignment_by_size: Path,
    saliency: Path,
    sae_name: str,
    split: str,
    output: Path,
) -> list[Path]:
    """Draw how much of a latent's activation lies on the lesion, layer by layer and by size.

    Parameters
    ----------
    alignment, alignment_by_size
        The tables of all SAEs.
    saliency
        Table `saliency` of all encoders and layers.
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
    everything = read_table(alignment)
    if len(everything) and sae_name not in set(everything["sae"]):
        raise InputError(
            f"{alignment} has no row of SAE {sae_name!r}; give the name of one that it has"
        )
    title = f"Activation on the lesion · SAE {sae_name}"
    table, sized = (
        _first_seed(everything, sae_name),
        _first_seed(read_table(alignment_by_size), sae_name),
    )
    maps = read_table(saliency)
    sized, maps = sized[sized["split"] == split], maps[maps["split"] == split]
    if table["energy_lift"].isna().all():
        style.absent(output, title, style.reasons(table))
        return [output]
    concepts = list(dict.fromkeys(table["concept"]))
    encoders = sorted(table["encoder"].unique())
    width = max(7.2, 0.5 + 2 * PANEL * len(encoders))
    height = 1.7 + 2.6 * len(concepts)
    with style.figure(output, width, height) as fig:
        what = (
            "Energy lift: share of the activation inside the lesion, divided by the lesion's share "
            f"of the breast; 1 is chance. {split.capitalize()} split, first seed. Points: latents, "
            "with their median; lines: 95 % patient bootstrap."
        )
        style.heading(fig, title, textwrap.fill(what, int(15.5 * width)))
        grid = fig.add_gridspec(
            len(concepts),
            2 * len(encoders),
            left=0.6 / width,
            right=1 - 0.15 / width,
            top=1 - 1.15 / height,
            bottom=0.75 / height,
            hspace=0.55,
            wspace=0.24,
        )
        for i, concept in enumerate(concepts):
            for j, encoder in enumerate(encoders):
                parts = [
                    one[(one["concept"] == concept) & (one["encoder"] == encoder)]
                    for one in (table, sized, maps)
                ]
                rows = _Rows(style.layer_order(parts[0]["layer"]), *parts)
                left, right = (fig.add_subplot(grid[i, 2 * j + k]) for k in (0, 1))
                left.set_title(f"{style.words(concept)}, {encoder}:\nall lesions")
                right.set_title(f"\n{rows.layers[-1]}, by size")
                _by_layer(left, rows)
                _by_size(right, rows)
                if j == 0 and left.axison:
                    left.set_ylabel("energy lift")
        handles = [
            Line2D(
                [], [], color=colour, marker=marker, linestyle="none", markersize=4.5, label=name
            )
            for name, (colour, marker, _) in DRAWN.items()
        ]
        fig.legend(handles=handles, loc="lower center", ncols=len(handles))
    return [output]


def _first_seed(table: pd.DataFrame, sae: str) -> pd.DataFrame:
    rows = table[table["sae"] == sae]
    return rows[rows["seed"] == rows["seed"].min()]


def _by_layer(ax: Axes, rows: _Rows) -> None:
    """Draw all lesions: a group of marks per layer."""
    if rows.alignment["energy_lift"].isna().all():
        style.empty(ax, style.reasons(rows.alignment), 26)
        return
    whole = rows.saliency[rows.saliency["size"] == "all"]
    for place, layer in enumerate(rows.layers):
        here = rows.alignment[rows.alignment["layer"] == layer]
        for selection, name in (("ranked", RANKED), ("matched", MATCHED)):
            _cloud(ax, place, name, here.loc[here["selection"] == selection, "energy_lift"])
        _marks(ax, place, PRIOR, here[here["selection"] == "prior"])
        for method, name in METHODS.items():
            _marks(ax, place, name, whole[(whole["layer"] == layer) & (whole["method"] == method)])
    _finish(ax, rows.layers)


def _by_size(ax: Axes, rows: _Rows) -> None:
    """Draw the last layer: a group of marks per size."""
    last = rows.layers[-1]
    sized = rows.by_size[(rows.by_size["layer"] == last) & rows.by_size["size"].isin(SIZES)]
    maps = rows.saliency[rows.saliency["layer"] == last]
    if sized["energy_lift"].isna().all():
        style.empty(ax, style.reasons(sized), 26)
        return
    labels = []
    for place, size in enumerate(SIZES):
        here = sized[sized["size"] == size]
        _cloud(ax, place, RANKED, here["energy_lift"])
        for method, name in METHODS.items():
            _marks(ax, place, name, maps[(maps["size"] == size) & (maps["method"] == method)])
        labels.append(f"{size}\nn = {int(here['images'].max())}" if len(here) else size)
    _finish(ax, labels)


def _cloud(ax: Axes, place: float, name: str, values: pd.Series) -> None:
    """Draw the values of several latents, and their median."""
    known = values.dropna().to_numpy(dtype=float)
    if not len(known):
        return
    colour, marker, beside = DRAWN[name]
    x = place + beside
    ax.scatter(
        np.full(len(known), x), known, s=6, c=colour, marker=marker, alpha=0.35, linewidths=0
    )
    ax.plot([x - 0.07, x + 0.07], [np.median(known)] * 2, color=colour, linewidth=2.2)


def _marks(ax: Axes, place: float, name: str, rows: pd.DataFrame) -> None:
    """Draw one map's value with its interval."""
    colour, marker, beside = DRAWN[name]
    for row in rows[rows["energy_lift"].notna()].itertuples():
        below = max(row.energy_lift - row.energy_lift_low, 0)
        above = max(row.energy_lift_high - row.energy_lift, 0)
        ax.errorbar(
            place + beside,
            row.energy_lift,
            yerr=[[below], [above]],
            fmt=marker,
            color=colour,
            markersize=4,
            linewidth=1.1,
        )


def _finish(ax: Axes, labels: Sequence[str]) -> None:
    style.reference(ax, 1.0)
    ax.set_xticks(range(len(labels)), labels)
    ax.set_xlim(-0.5, len(labels) - 0.5)
    top = 1.3 * max(ax.dataLim.y1, 1.0)
    ax.set_yscale("symlog", linthresh=1, linscale=0.4)
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100, 200) if tick <= top]
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_ylim(-0.1, top)
