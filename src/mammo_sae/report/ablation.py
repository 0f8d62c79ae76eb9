"""Step: draw the AUROC before and after an ablation, and the logit's shares by verdict."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from mammo_sae.analysis.verdict import CONFOUNDED, SAE_ERROR, UNTESTED
from mammo_sae.encoders.plans.plan import HEAD
from mammo_sae.errors import InputError
from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

HEADS = {False: ("encoder's own head", "#332E73"), True: ("refitted head", "#3F9F97")}
RANDOM = "#C3CBD3"
COLOURS = {**style.VERDICT_COLOURS, UNTESTED: "#FFFFFF", SAE_ERROR: style.INK}
NAMED = 0.12  # the smallest share with a number in its bar
LINE = 0.52  # inches for a confounder or a split
GAP = 0.85  # inches for the labels of an axis and the title below


def run(*, ablation: Path, reliance: Path, sae_name: str, output: Path) -> list[Path]:
    """Draw one SAE at the head layer, first seed: a row of panels per concept and encoder.

    Parameters
    ----------
    ablation, reliance
        Tables of all SAEs.
    sae_name
        Name of the SAE in the configuration.
    output
        PNG to write.

    Raises
    ------
    InputError
        If the table of reliance has no row of this SAE.
    """
    scores, shares = (_first_seed(read_table(path), sae_name) for path in (ablation, reliance))
    if shares.empty:
        raise InputError(f"{reliance} has no SAE {sae_name!r}; give the name of one that it has")
    scores = scores[scores["layer"] == HEAD]
    scores = scores[(scores["measure"] == "worst_group") & (scores["verdicts"] == CONFOUNDED)]
    scores = scores[scores["called_for"] == scores["confounder"]]
    splits = style.splits_of(scores["split"]) or [""]
    pairs = shares[["concept", "encoder"]].drop_duplicates().sort_values(["concept", "encoder"])
    tall = [max(2, _drawn(scores, *pair)["called_for"].nunique()) for pair in pairs.to_numpy()]
    panels = [LINE * count for count in tall]
    width = 2.2 + 3.3 * len(splits) + 4.0
    height = 1.0 + sum(panels) + GAP * len(panels)
    with style.figure(output, width, height) as fig:
        style.heading(
            fig,
            f"What predictions rest on at the head · SAE {sae_name}",
            "left: AUROC in the worst group of each confounder, before and after the ablation of "
            "its latents; right: parts of the logit's difference between the classes",
        )
        top = 1.3
        for pair, panel in zip(pairs.to_numpy(), panels, strict=True):
            bottom = 1 - (top + panel) / height
            concept, encoder = pair
            fig.text(
                0.12 / width,
                bottom + panel / height,
                f"{style.words(concept)}\n{encoder}",
                va="top",
                weight="bold",
                size=9,
            )
            rows = _drawn(scores, concept, encoder)
            counts = rows.drop_duplicates("called_for").set_index("called_for")["latents"]
            counts = counts.sort_index()
            for i, split in enumerate(splits):
                left = 2.2 + 3.3 * i
                ax = fig.add_axes((left / width, bottom, 3.0 / width, panel / height))
                here = rows[rows["split"] == split]
                _worst(ax, here, list(counts.index), _reason(scores, concept, encoder, split))
                seen = "" if here.empty or here["independent"].all() else " (gave the verdicts)"
                ax.set_title(f"{split} split{seen}")
                if i == 0:
                    _label(ax, counts)
            left = 2.2 + 3.3 * len(splits) + 0.75
            ax = fig.add_axes((left / width, bottom, 3.05 / width, panel / height))
            mine = (shares["concept"] == concept) & (shares["encoder"] == encoder)
            _shares(ax, shares[mine])
            top += panel + GAP
        _legend(fig)
    return [output]


def _first_seed(table: pd.DataFrame, sae: str) -> pd.DataFrame:
    rows = table[table["sae"] == sae]
    return rows[rows["seed"] == rows["seed"].min()]


def _drawn(scores: pd.DataFrame, concept: str, encoder: str) -> pd.DataFrame:
    """Return the rows of one concept and encoder that have an AUROC after the ablation."""
    mine = (scores["concept"] == concept) & (scores["encoder"] == encoder)
    return scores[mine & scores["after"].notna()]


def _reason(scores: pd.DataFrame, concept: str, encoder: str, split: str) -> str:
    """Return why there is no row to draw for one concept, encoder and split."""
    mine = (scores["concept"] == concept) & (scores["encoder"] == encoder)
    rows = scores[mine & (scores["split"] == split)]
    if len(rows) and (rows["latents"] == 0).all():
        return f"no latent of {style.words(concept)} is {CONFOUNDED} by any column"
    return style.reasons(rows[rows["latents"] > 0])


def _label(ax: Axes, counts: pd.Series) -> None:
    """Write the confounders and their numbers of latents to the left of the first panel."""
    for y, (name, count) in enumerate(counts.items()):
        label = f"{style.words(str(name))}\n{count} latent{'' if count == 1 else 's'}"
        place = ax.get_yaxis_transform()
        ax.text(-0.03, y, label, ha="right", va="center", size=8, transform=place)


def _worst(ax: Axes, rows: pd.DataFrame, names: list[str], reason: str) -> None:
    """Draw the AUROC before (hollow) and after (filled), and the random sets' range (grey)."""
    ax.set_ylim(max(len(names), 1) - 0.5, -0.5)
    if rows.empty:
        style.empty(ax, reason)
        return
    for row in rows.to_dict("records"):
        _, colour = HEADS[bool(row["refit"])]
        y = names.index(row["called_for"]) + (0.2 if row["refit"] else -0.2)
        before, after = row["before"], row["after"]
        low, high = before + row["random_difference_low"], before + row["random_difference_high"]
        ax.barh(y, high - low, left=low, height=0.3, color=RANDOM, zorder=1)
        ends = before + row["difference_low"], before + row["difference_high"]
        ax.plot(ends, [y, y], color=colour, linewidth=1.2, zorder=2)
        ax.plot(before, y, "o", markersize=6, markerfacecolor="white", markeredgecolor=colour)
        ax.plot(after, y, "o", markersize=6, color=colour, zorder=3)
    ax.set_yticks([])
    ax.set_xlim(min(0.4, float(rows[["before", "after"]].min(axis=None)) - 0.05), 1.02)
    ax.axvline(0.5, color=style.FAINT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
    ax.grid(axis="x")
    ax.set_xlabel("AUROC in the worst group")


def _shares(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw a stacked bar per split. Negative shares are drawn to the left of 0."""
    splits = style.splits_of(rows["split"])
    known = rows[rows["share"].notna()]
    if known.empty:
        style.empty(ax, style.reasons(rows), 46)
        return
    for y, split in enumerate(splits):
        ends = {True: 0.0, False: 0.0}
        part = known[known["split"] == split].set_index("verdict")["share"]
        for verdict in (name for name in COLOURS if name in part.index and part[name] != 0):
            share = part[verdict]
            start = ends[share > 0]
            ends[share > 0] += share
            ax.barh(
                y,
                share,
                left=start,
                height=0.6,
                color=COLOURS[verdict],
                edgecolor=style.FAINT,
                linewidth=0.5,
                hatch="////" if verdict == UNTESTED else None,
            )
            if abs(share) >= NAMED and verdict != UNTESTED:
                dark = verdict in ("insufficient", "not associated")
                ax.text(
                    start + share / 2,
                    y,
                    f"{share:.0%}",
                    ha="center",
                    va="center",
                    size=7,
                    color=style.INK if dark else "white",
                )
    ax.axvline(0, color=style.INK, linewidth=0.8)
    ax.set_yticks(range(len(splits)), splits)
    ax.set_ylim(len(splits) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_title("shares of the logit's difference")


def _legend(fig: Figure) -> None:
    handles: list[Artist] = [
        Line2D([], [], color=colour, marker="o", linestyle="none", label=name)
        for name, colour in HEADS.values()
    ]
    hollow = Line2D([], [], marker="o", linestyle="none", label="before; filled: after")
    hollow.set(markerfacecolor="white", markeredgecolor=style.INK)
    handles.append(hollow)
    handles.append(Patch(facecolor=RANDOM, label="random latents ablated, 95 % of sets"))
    handles += [
        Patch(
            facecolor=colour,
            edgecolor=style.FAINT,
            hatch="////" if name == UNTESTED else None,
            label=name,
        )
        for name, colour in COLOURS.items()
    ]
    fig.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.5 / fig.get_figheight()),
        ncols=7,
        columnspacing=1.3,
        handletextpad=0.5,
    )
