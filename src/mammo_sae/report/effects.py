"""Step: which latents a prediction rests on, and which of them fine-tuning brought."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mammo_sae.errors import InputError
from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

SPLIT = "test"
TOP = 12  # latents whose effects are drawn
NEW, KEPT = "#D55E00", "#0072B2"


def run(*, effects: Path, matched: Path | None, sae: str, output: Path) -> None:
    """Draw effects of single latents on the logits, and those of the base's nearest latents.

    Parameters
    ----------
    effects
        Table `effects` of all SAEs at the head layer.
    matched
        Table `matched_latents`; None: there is no fine-tuned encoder.
    output
        PNG to write.

    Raises
    ------
    InputError
        If the table holds no such SAE.
    """
    table = _first_seed(read_table(effects), sae)
    if table.empty:
        raise InputError(f"{effects} has no {SPLIT} row of SAE {sae!r}; run its step again")
    pairs = _first_seed(read_table(matched), sae) if matched else table.iloc[:0]
    concepts, encoders = sorted(table["concept"].unique()), sorted(table["encoder"].unique())
    tuned = sorted(pairs["encoder"].unique())
    columns = len(encoders) + len(tuned)
    width, height = max(6.4, 0.4 + 3.4 * columns), 1.2 + 2.9 * len(concepts)
    with style.figure(output, width, height) as fig:
        style.heading(
            fig,
            f"What predictions rest on at the head · SAE {sae}",
            f"{SPLIT} split, first seed; effect: what a latent's presence adds to the logit of "
            "positive images more than to that of negative ones",
        )
        grid = fig.add_gridspec(
            len(concepts),
            columns,
            left=0.75 / width,
            right=1 - 0.2 / width,
            top=1 - 0.95 / height,
            bottom=0.5 / height,
            hspace=0.45,
            wspace=0.3,
        )
        for i, concept in enumerate(concepts):
            for j, encoder in enumerate(encoders):
                ax = fig.add_subplot(grid[i, j])
                here = table[(table["concept"] == concept) & (table["encoder"] == encoder)]
                ax.set_title(f"{style.words(concept)} · {encoder}")
                if here["effect"].isna().all():
                    style.empty(ax, f"not estimable: {here['reason'].iloc[0]}")
                    continue
                _largest(ax, here)
            for j, encoder in enumerate(tuned, start=len(encoders)):
                ax = fig.add_subplot(grid[i, j])
                here = pairs[(pairs["concept"] == concept) & (pairs["encoder"] == encoder)]
                ax.set_title(f"{style.words(concept)} · {encoder}: new?")
                if here["effect"].isna().all():
                    style.empty(ax, "not estimable")
                    continue
                _novelty(ax, here)


def _first_seed(table: pd.DataFrame, sae: str) -> pd.DataFrame:
    rows = table[(table["sae"] == sae) & (table["split"] == SPLIT)]
    return rows[rows["seed"] == rows["seed"].min()]


def _largest(ax: Axes, rows: pd.DataFrame) -> None:
    """Effects of the latents of largest size, with their intervals."""
    top = rows[rows["rank_causal"] <= TOP].sort_values("rank_causal")
    places = np.arange(len(top))
    spread = np.abs(top[["effect_low", "effect_high"]].to_numpy().T - top["effect"].to_numpy())
    ax.errorbar(top["effect"], places, xerr=spread, fmt="o", color=style.INK, markersize=3.5)
    style.reference(ax, 0.0, axis="x")
    ax.set_yticks(places, [str(latent) for latent in top["latent"]])
    ax.invert_yaxis()
    ax.set_xlabel("effect on the logit")
    ax.set_ylabel("latent")


def _novelty(ax: Axes, rows: pd.DataFrame) -> None:
    """Effect of each latent against the cosine of the base's nearest atom."""
    colours = np.where(rows["new"].astype(bool), NEW, KEPT)
    ax.scatter(rows["cosine"], rows["effect"], s=9, c=colours, linewidths=0, alpha=0.8)
    null = float(rows["null_cosine"].iloc[0])
    style.reference(ax, null, axis="x")
    style.reference(ax, 0.0)
    new = rows["new"].astype(bool)
    total = rows["effect"].abs().sum()
    share = rows.loc[new, "effect"].abs().sum() / total if total else float("nan")
    ax.annotate(
        f"{int(new.sum())} new latents (left of the line),\n{share:.0%} of all absolute effects",
        (0.03, 0.97),
        xycoords="axes fraction",
        va="top",
        size=7.5,
        color=NEW,
    )
    ax.set_xlabel("cosine with the base's nearest atom")
    ax.set_ylabel("effect on the logit")
