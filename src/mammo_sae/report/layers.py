"""Step: draw fidelity, concepts, localisation and confounders against the layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mammo_sae.analysis.cases import IDENTITY
from mammo_sae.analysis.verdict import JUDGED, associated, overall
from mammo_sae.errors import InputError
from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

TOP = 5  # latents whose localisation is shown per SAE


def run(
    *,
    sae_quality: Path,
    latents: Path,
    alignment: Path,
    confounds: Path,
    sae_name: str,
    output: Path,
) -> list[Path]:
    """Draw one named SAE over all layers and encoders. Dots are seeds, lines are their mean.

    Parameters
    ----------
    sae_quality, latents, alignment, confounds
        Tables of all SAEs.
    sae_name
        Name of the SAE in the configuration.
    output
        PNG to write.

    Raises
    ------
    InputError
        If the quality table has rows, but none of this SAE.
    """
    quality, probed, aligned, tested = (
        table[table["sae"] == sae_name]
        for table in map(read_table, (sae_quality, latents, alignment, confounds))
    )
    if quality.empty:
        raise InputError(f"{sae_quality} has no SAE {sae_name!r}; give the name of one that it has")
    layers = style.layer_order(quality["layer"])
    concepts = sorted(probed["concept"].unique())
    palette = style.colours(quality["encoder"], style.ENCODER_COLOURS)
    colours = style.colours(concepts, style.CONCEPT_COLOURS)
    verdicts = overall(tested)
    confounders = sorted(tested["confounder"].unique())
    rows = len(concepts) + 1
    width, height = 12.4, 1.2 + 2.3 * rows
    with style.figure(output, width, height) as fig:
        style.heading(
            fig,
            f"Layer by layer · SAE {sae_name}",
            "dots: seeds; lines: their mean; the best latent is chosen in the discovery split; "
            "energy lift: grey lines are random latents with a similar firing rate; "
            "verdicts: the most severe of each associated latent",
        )
        grid = fig.add_gridspec(
            rows,
            4,
            left=0.075,
            right=0.985,
            top=1 - 0.95 / height,
            bottom=0.95 / height,
            hspace=0.55,
            wspace=0.26,
        )
        panels = [[fig.add_subplot(grid[row, column]) for column in (0, 1)] for row in range(rows)]
        _fidelity(panels[0], quality, layers, palette)
        wide = grid[0, 2:].subgridspec(1, 2, width_ratios=(1, 0.42))
        _readability(fig.add_subplot(wide[0]), tested, layers, confounders, palette)
        for i, concept in enumerate(concepts, start=1):
            middle = grid[i, 0].get_position(fig)
            fig.text(
                0.012,
                (middle.y0 + middle.y1) / 2,
                style.words(concept),
                rotation=90,
                va="center",
                ha="center",
                weight="bold",
                color=colours[concept],
            )
            _aurocs(panels[i], quality, probed, concept, layers, palette)
            _lifts(fig.add_subplot(grid[i, 2]), aligned, probed, concept, layers, palette)
            _verdicts(fig.add_subplot(grid[i, 3]), verdicts, concept, layers, palette)
        style.legend(fig, palette)
        fig.legend(
            handles=[
                Line2D(
                    [], [], color=style.VERDICT_COLOURS[v], marker="s", linestyle="none", label=v
                )
                for v in JUDGED
            ],
            loc="lower right",
            ncols=len(JUDGED),
            handletextpad=0.2,
            columnspacing=1.2,
        )
    return [output]


def best_latents(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return each SAE's rows of its `count` latents of highest discovery AUROC."""
    return rows[rows["rank_auroc"] <= count]


def _fidelity(
    panels: Sequence[Axes], quality: pd.DataFrame, layers: list[str], palette: dict[str, str]
) -> None:
    """Draw the explained variance and the share of dead latents."""
    unseen = "not estimable: no image in the split that scores SAEs (sae_quality.split)"
    variance, dead = panels
    variance.set_title("explained variance (dashed: PCA)")
    if _curves(variance, quality, "explained_variance", layers, palette, unseen):
        _dashed(variance, quality, "explained_variance_pca", layers, palette)
        variance.set_ylim(top=1.0)
    dead.set_title("share of dead latents")
    if _curves(dead, quality, "dead_share", layers, palette, unseen):
        dead.set_ylim(bottom=0)


def _aurocs(
    panels: Sequence[Axes],
    quality: pd.DataFrame,
    probed: pd.DataFrame,
    concept: str,
    layers: list[str],
    palette: dict[str, str],
) -> None:
    """Draw the AUROC that splicing loses, and the AUROC of the best latent."""
    few = "not estimable: too few positive or negative images"
    lost, best = panels
    lost.set_title("AUROC lost by splicing")
    if _curves(lost, quality, f"auroc_lost_{concept}", layers, palette, few):
        style.reference(lost, 0.0)
    mine = probed[probed["concept"] == concept]
    why = style.reasons(mine[mine["rank_auroc"].isna() | mine["auroc"].isna()])
    best.set_title("AUROC of the best latent")
    if _curves(best, best_latents(mine, 1), "auroc", layers, palette, why):
        style.reference(best, 0.5)


def _axis(ax: Axes, layers: list[str]) -> None:
    ax.set_xticks(range(len(layers)), layers)
    ax.set_xlim(-0.35, len(layers) - 0.65)
    ax.grid(axis="y")


def _means(values: pd.DataFrame, column: str, layers: list[str]) -> np.ndarray:
    """Return the mean of `column` over a layer's SAEs, [layers]; NaN if there is none."""
    return values.groupby("layer")[column].mean().reindex(layers).to_numpy(dtype=float)


def _curves(
    ax: Axes,
    values: pd.DataFrame,
    column: str,
    layers: list[str],
    palette: dict[str, str],
    why: str,
) -> bool:
    """Draw a column against the layers. Without values, write `why` and return False."""
    if column not in values or values[column].isna().all():
        style.empty(ax, why)
        return False
    _axis(ax, layers)
    for number, (encoder, colour) in enumerate(palette.items()):
        here = values[values["encoder"] == encoder]
        shift = 0.06 * (number - (len(palette) - 1) / 2)
        ax.plot(np.arange(len(layers)) + shift, _means(here, column, layers), color=colour)
        for row in here.to_dict("records"):
            x = layers.index(row["layer"]) + shift
            if f"{column}_low" in row:
                ax.plot(
                    [x, x],
                    [row[f"{column}_low"], row[f"{column}_high"]],
                    color=colour,
                    linewidth=1,
                    alpha=0.7,
                )
            ax.plot(x, row[column], "o", color=colour, markersize=4)
    return True


def _dashed(
    ax: Axes, values: pd.DataFrame, column: str, layers: list[str], palette: dict[str, str]
) -> None:
    for encoder, colour in palette.items():
        means = _means(values[values["encoder"] == encoder], column, layers)
        ax.plot(means, color=colour, linewidth=1, linestyle=(0, (4, 3)), alpha=0.8)


def _lifts(
    ax: Axes,
    aligned: pd.DataFrame,
    probed: pd.DataFrame,
    concept: str,
    layers: list[str],
    palette: dict[str, str],
) -> None:
    """Draw the energy lift of each SAE's top latents by discovery AUROC, and its baseline."""
    ax.set_title(f"energy lift of the top {TOP}")
    best = best_latents(probed[probed["concept"] == concept], TOP)[[*IDENTITY, "latent"]]
    rows = aligned[(aligned["concept"] == concept) & (aligned["selection"] == "ranked")]
    top = rows.merge(best, on=[*IDENTITY, "latent"])
    if top["energy_lift"].isna().all():
        style.empty(ax, style.reasons(rows if top.empty else top))
        return
    _axis(ax, layers)
    rng = np.linspace(-0.05, 0.05, TOP)
    for number, (encoder, colour) in enumerate(palette.items()):
        here = top[top["encoder"] == encoder]
        shift = 0.16 * (number - (len(palette) - 1) / 2)
        for place, layer in enumerate(layers):
            x = place + shift
            part = here[here["layer"] == layer]
            lifts = part["energy_lift"].dropna().sort_values()
            if lifts.empty:
                ax.annotate(
                    "not estimable",
                    (x, 0.03),
                    xycoords=("data", "axes fraction"),
                    rotation=90,
                    ha="center",
                    size=6.5,
                    color=colour,
                )
                continue
            ax.plot(x + rng[np.arange(len(lifts)) % TOP], lifts, "o", color=colour, markersize=3.4)
            ax.plot([x - 0.07, x + 0.07], [lifts.median()] * 2, color=colour, linewidth=1.6)
            matched = part["matched_energy_lift"].mean()
            ax.plot(x, matched, "_", color=style.FAINT, markersize=11, markeredgewidth=1.6)
    style.reference(ax, 1.0)
    ax.set_yscale("symlog", linthresh=1)
    high = top["energy_lift"].max()
    ticks = [t for t in (0, 1, 3, 10, 30, 100) if t <= 1.5 * high]
    ax.set_yticks(ticks, [f"×{t}" for t in ticks])
    ax.set_ylim(0, 1.3 * max(high, 3))
    ax.minorticks_off()


def _verdicts(
    ax: Axes,
    verdicts: pd.DataFrame,
    concept: str,
    layers: list[str],
    encoders: dict[str, str],
) -> None:
    """Draw the share of each verdict among associated latents: a bar per encoder and layer."""
    ax.set_title("verdicts of associated latents")
    tested = verdicts[verdicts["concept"] == concept]
    here = associated(tested)
    if here.empty:
        said = "no latent was tested" if tested.empty else "no tested latent is associated"
        style.empty(ax, said)
        return
    bar = 0.8 / len(encoders)
    for number, (encoder, encoder_colour) in enumerate(encoders.items()):
        for x, layer in enumerate(layers):
            words = here.loc[(here["encoder"] == encoder) & (here["layer"] == layer), "verdict"]
            if words.empty:
                continue
            place = x + (number - (len(encoders) - 1) / 2) * bar
            bottom = 0.0
            for verdict in JUDGED:
                share = (words == verdict).mean()
                ax.bar(
                    place,
                    share,
                    bottom=bottom,
                    width=0.9 * bar,
                    color=style.VERDICT_COLOURS[verdict],
                    edgecolor="white",
                    linewidth=0.5,
                )
                bottom += share
            # A line in the encoder's colour above its bar.
            ends = [place - 0.42 * bar, place + 0.42 * bar]
            ax.plot(ends, [1.05, 1.05], color=encoder_colour, linewidth=3, solid_capstyle="butt")
    _axis(ax, layers)
    ax.set_xlim(-0.6, len(layers) - 0.4)
    ax.set_ylim(0, 1.1)
    ax.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])


def _readability(
    ax: Axes,
    tested: pd.DataFrame,
    layers: list[str],
    confounders: list[str],
    encoders: dict[str, str],
) -> None:
    """Draw the best AUROC for each confounder among the latents tested for any concept."""
    palette = style.colours(confounders, style.CONFOUNDER_COLOURS)
    ax.set_title("best AUROC for each confounder")
    if tested["confounder_auroc"].isna().all():
        style.empty(ax, style.reasons(tested), 60)
        return
    auroc = np.maximum(tested["confounder_auroc"], 1 - tested["confounder_auroc"])
    best = tested.assign(auroc=auroc).groupby(["encoder", "layer", "confounder"])["auroc"].max()
    _axis(ax, layers)
    markers = dict(zip(encoders, "os^DvP", strict=False))
    # With more confounders than colours, colours repeat and the later lines are dashed.
    drawn = list(palette.values())
    dashes: dict[str, Literal["-", "--"]] = {
        name: "--" if colour in drawn[:place] else "-"
        for place, (name, colour) in enumerate(palette.items())
    }
    for confounder, colour in palette.items():
        for encoder, marker in markers.items():
            values = [best.get((encoder, layer, confounder), np.nan) for layer in layers]
            ax.plot(
                values,
                color=colour,
                linestyle=dashes[confounder],
                marker=marker,
                markersize=4,
                linewidth=1.1,
            )
    style.reference(ax, 0.5)
    ax.set_ylim(0.48, 1.02)
    known = set(tested.loc[tested["confounder_auroc"].notna(), "confounder"])
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            linestyle=dashes[name],
            label=style.words(name) + ("" if name in known else " (not testable)"),
        )
        for name, colour in palette.items()
    ]
    handles += [
        Line2D([], [], color=style.INK, marker=marker, linestyle="none", markersize=4, label=name)
        for name, marker in markers.items()
    ]
    ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.04),
        fontsize=6.5,
        labelspacing=0.3,
    )
