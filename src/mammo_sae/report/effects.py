"""Step: draw the latents with the largest effects on a prediction, and those new in fine-tuning."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mammo_sae.errors import InputError
from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

TOP = 12  # latents whose effects are drawn
NEW, KEPT = "#D55E00", "#0072B2"
PANEL = 3.5  # inches


def run(
    *, effects: Path, sae_name: str, split: str, output: Path, matched_latents: Path | None = None
) -> list[Path]:
    """Draw the effects of single latents on the logits, and the nearest latents of the base.

    Parameters
    ----------
    effects
        Table `effects` of all SAEs at the head layer.
    sae_name
        Name of the SAE in the configuration.
    matched_latents
        Table `matched_latents`; None if there is no fine-tuned encoder.
    split
        The split on whose images the effects were measured.
    output
        PNG to write.

    Raises
    ------
    InputError
        If the table has rows, but none of this SAE.
    """
    everything = read_table(effects)
    if len(everything) and sae_name not in set(everything["sae"]):
        raise InputError(
            f"{effects} has no row of SAE {sae_name!r}; give the name of one that it has"
        )
    title = f"Latents that predictions depend on at the head · SAE {sae_name}"
    table = _first_seed(everything, sae_name, split)
    if table.empty:
        style.absent(output, title, f"no latent fires in a labelled image of the {split} split")
        return [output]
    pairs = table.iloc[:0]
    if matched_latents is not None:
        pairs = _first_seed(read_table(matched_latents), sae_name, split)
    concepts, encoders = sorted(table["concept"].unique()), sorted(table["encoder"].unique())
    tuned = sorted(pairs["encoder"].unique())
    columns = len(encoders) + len(tuned)
    width, height = max(7.2, 0.5 + PANEL * columns), 1.5 + 3.0 * len(concepts)
    with style.figure(output, width, height) as fig:
        what = (
            "Effect: mean amount that a latent adds to the logit of positive images, minus that of "
            f"negative images. {split.capitalize()} split, first seed; lines: 95 % "
            "patient bootstrap."
        )
        style.heading(fig, title, textwrap.fill(what, int(15.5 * width)))
        grid = fig.add_gridspec(
            len(concepts),
            columns,
            left=0.75 / width,
            right=1 - 0.2 / width,
            top=1 - 1.25 / height,
            bottom=0.75 / height,
            hspace=0.55,
            wspace=0.36,
        )
        for i, concept in enumerate(concepts):
            for j, encoder in enumerate(encoders):
                ax = fig.add_subplot(grid[i, j])
                here = table[(table["concept"] == concept) & (table["encoder"] == encoder)]
                ax.set_title(f"{style.words(concept)}\n{encoder}: largest effects")
                if here["effect"].isna().all():
                    style.empty(ax, style.reasons(here))
                    continue
                _largest(ax, here)
            for j, encoder in enumerate(tuned, start=len(encoders)):
                ax = fig.add_subplot(grid[i, j])
                here = pairs[(pairs["concept"] == concept) & (pairs["encoder"] == encoder)]
                ax.set_title(f"{style.words(concept)}\n{encoder}: {_novel(here)}")
                if here["effect"].isna().all():
                    why = table[(table["concept"] == concept) & (table["encoder"] == encoder)]
                    style.empty(ax, style.reasons(why))
                    continue
                _novelty(ax, here)
        if tuned:
            names = {"without counterpart in the base's SAE": NEW, "with a counterpart": KEPT}
            handles = [
                Line2D([], [], color=colour, marker="o", linestyle="none", markersize=4, label=name)
                for name, colour in names.items()
            ]
            handles.append(
                Line2D([], [], color=style.FAINT, linestyle=(0, (4, 3)), label="95 % of random")
            )
            fig.legend(handles=handles, loc="lower right", ncols=3)
    return [output]


def _first_seed(table: pd.DataFrame, sae: str, split: str) -> pd.DataFrame:
    rows = table[(table["sae"] == sae) & (table["split"] == split)]
    return rows[rows["seed"] == rows["seed"].min()]


def _largest(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw the largest effects, with intervals."""
    top = rows[rows["rank_causal"] <= TOP].sort_values("rank_causal")
    places = np.arange(len(top))
    spread = np.abs(top[["effect_low", "effect_high"]].to_numpy().T - top["effect"].to_numpy())
    ax.errorbar(top["effect"], places, xerr=spread, fmt="o", color=style.INK, markersize=3.5)
    style.reference(ax, 0.0, axis="x")
    ax.set_yticks(places, [str(latent) for latent in top["latent"]])
    ax.invert_yaxis()
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_xlabel("effect on the logit")
    ax.set_ylabel("latent")


def _novel(rows: pd.DataFrame) -> str:
    """Return the number of new latents and their share of all effects, as words."""
    known = rows[rows["effect"].notna()]
    if known.empty:
        return "new latents?"
    new, size = known["new"].astype(bool), known["effect"].abs()
    share = size[new].sum() / size.sum() if size.sum() else float("nan")
    return f"{int(new.sum())} new, {share:.0%} of effects"


def _novelty(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw the effect of each latent against the cosine with the base's nearest atom."""
    colours = np.where(rows["new"].astype(bool), NEW, KEPT)
    ax.scatter(rows["cosine"], rows["effect"], s=9, c=colours, linewidths=0, alpha=0.8)
    style.reference(ax, float(rows["null_cosine"].iloc[0]), axis="x")
    style.reference(ax, 0.0)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel("cosine with the base's nearest atom")
    ax.set_ylabel("effect on the logit")
