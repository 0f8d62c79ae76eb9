"""Step: draw the confounder tests of a concept's top latents."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mammo_sae.analysis.verdict import (
    INSUFFICIENT,
    JUDGED,
    SUSPECT,
    UNASSOCIATED,
    associated,
    overall,
)
from mammo_sae.errors import counted
from mammo_sae.report import style
from mammo_sae.stores.tables import read_table

SHADE = "#F7DCCD"
MOST_ROWS = 30  # most latents in the matrix; more would be unreadable
# Blue: the latent fires more without the confounder's level. Brown: it fires more with the level.
DIVERGING = LinearSegmentedColormap.from_list(
    "diverging", ["#0B5C73", "#8FC1CF", "#FFFFFF", "#D9B48F", "#7A4A12"]
)


def run(
    *, latents: Path, confounds: Path, concept: str, min_kept: float, output: Path
) -> list[Path]:
    """Draw the confounder tests and the verdicts of a concept's latents.

    Parameters
    ----------
    latents, confounds
        Tables of the same SAE, written by the steps of these names.
    concept
        Column of the image table.
    min_kept
        Share of the crude excess over 0.5 below which an association is due to the confounder. The
        figure shades this region.
    output
        PNG to write.
    """
    rows = read_table(confounds)
    rows = rows[rows["concept"] == concept]
    ranks = read_table(latents)
    ranks = ranks[ranks["concept"] == concept].set_index("latent")["rank_auroc"]
    title = f"{style.words(concept).capitalize()}, or a confounder?"
    if rows.empty:
        reason = "no latent could be ranked" if ranks.isna().all() else "no confounder was given"
        if ranks.empty:
            reason = f"the table latents has no row of {concept}"
        style.absent(output, title, f"no latent was tested: {reason}")
        return [output]
    first = rows.iloc[0]
    title += f" · {first['encoder']} · {first['layer']} · SAE {first['sae']} seed {first['seed']}"
    kinds = rows.drop_duplicates("confounder").set_index("confounder")["kind"]
    names = list(kinds.index)
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    shown = _top(rows, ranks)
    width = 12.6
    height = 0.95 + 2.35 * lines + 1.0 + 0.24 * (len(names) + 1)
    with style.figure(output, width, height) as fig:
        style.heading(fig, title)
        _scatters(fig, associated(rows), names, kinds, columns, lines, min_kept)
        _counts(fig, rows, names)
        if shown:
            _matrix(fig, rows, names, shown)
        _legend(fig, min_kept)
    return [output]


def _top(rows: pd.DataFrame, ranks: pd.Series) -> list[int]:
    """Return the tested latents with the best AUROC ranks in the discovery split."""
    tested = pd.Index(rows["latent"].unique())
    return ranks.reindex(tested).dropna().sort_values().index[:MOST_ROWS].tolist()


def _scatters(
    fig: Figure,
    rows: pd.DataFrame,
    names: list[str],
    kinds: pd.Series,
    columns: int,
    lines: int,
    min_kept: float,
) -> None:
    height = fig.get_figheight()
    grid = fig.add_gridspec(
        lines,
        columns,
        left=0.05,
        right=0.62,
        top=1 - 0.95 / height,
        bottom=1 - (0.95 + 2.35 * lines - 0.45) / height,
        hspace=0.42,
        wspace=0.12,
    )
    both = rows[["crude_auroc", "stratified_auroc"]].to_numpy(dtype=float)
    low = min(0.4, np.nanmin(both) - 0.02) if np.isfinite(both).any() else 0.4
    labelled = -1  # the last row of panels that already has numbers on its left axis
    for i, name in enumerate(names):
        ax = fig.add_subplot(grid[i // columns, i % columns])
        _scatter(ax, rows[rows["confounder"] == name], low, min_kept)
        kind = "" if kinds[name] == "acquisition" else "(tissue, pose)"
        beside = " " if len(name) + len(kind) < 30 else "\n"
        ax.set_title(f"{style.words(name)}{beside}{kind}".strip())
        if i // columns == labelled:
            ax.set_yticklabels([])
        elif ax.axison:
            ax.set_ylabel("AUROC within its levels")
            labelled = i // columns
        if i + columns >= len(names):
            ax.set_xlabel("crude AUROC")
        else:
            ax.set_xticklabels([])


def _scatter(ax: Axes, rows: pd.DataFrame, low: float, min_kept: float) -> None:
    ax.set_xlim(low, 1.02)
    ax.set_ylim(low, 1.02)
    ax.set_aspect("equal")
    known = rows[rows["crude_auroc"].notna()]
    if known.empty:
        reason = rows["reason"].iloc[0] if len(rows) else "no associated latent"
        style.empty(ax, reason)
        return
    ends = np.array([0.0, 0.5, 1.02])  # the line of `min_kept`, below and above 0.5
    nothing = np.where(ends < 0.5, 1.02, 0.0)
    kept = 0.5 + (ends - 0.5) * min_kept
    for part in (slice(0, 2), slice(1, 3)):
        beyond = nothing[part].max() if part.start == 0 else 0.0
        ax.fill_between(ends[part], kept[part], beyond, color=SHADE, lw=0, zorder=0)
    ax.plot([0, 1.02], [0, 1.02], color=style.FAINT, linewidth=0.8, zorder=1)
    ax.axhline(0.5, color=style.FAINT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    for verdict in reversed(JUDGED):
        part = known[known["verdict"] == verdict]
        ax.scatter(
            part["crude_auroc"],
            part["stratified_auroc"],
            s=20,
            color=style.VERDICT_COLOURS[verdict],
            edgecolor="white",
            linewidth=0.5,
            zorder=3,
        )


def _counts(fig: Figure, rows: pd.DataFrame, names: list[str]) -> None:
    height = fig.get_figheight()
    tall = 0.24 * (len(names) + 1)
    ax = fig.add_axes((0.14, 0.45 / height, 0.48, tall / height))
    tested = rows["latent"].nunique()
    rows = associated(rows)
    severest = overall(rows)
    lines = [("most severe of all", severest["verdict"])]
    lines += [(n, rows.loc[rows["confounder"] == n, "verdict"]) for n in reversed(names)]
    for y, (_, verdicts) in enumerate(lines):
        left = 0
        for verdict in JUDGED:
            count = int((verdicts == verdict).sum())
            if not count:
                continue
            ax.barh(
                y,
                count,
                left=left,
                height=0.78,
                color=style.VERDICT_COLOURS[verdict],
                edgecolor="white",
                linewidth=0.8,
            )
            if count / len(severest) > 0.025:
                dark = verdict == INSUFFICIENT
                ax.text(
                    left + count / 2,
                    y,
                    str(count),
                    ha="center",
                    va="center",
                    size=7,
                    color=style.INK if dark else "white",
                    weight="bold",
                )
            left += count
    ax.axhline(0.5, color=style.INK, linewidth=0.8)
    ax.set_xlim(0, max(len(severest), 1))
    ax.set_ylim(-0.5, len(lines) - 0.5)
    ax.set_yticks(range(len(lines)), [style.words(name) for name, _ in lines])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("associated latents")
    ax.set_title(
        f"verdicts of the {counted(len(severest), 'associated latent')} of {tested} tested"
    )


def _matrix(fig: Figure, rows: pd.DataFrame, names: list[str], shown: list[int]) -> None:
    height = fig.get_figheight()
    tall = min(0.24 * len(shown), height - 2.2)
    ax = fig.add_axes((0.7, 1 - (1.5 + tall) / height, 0.285, tall / height))
    title = f"top {counted(len(shown), 'latent')} by discovery AUROC"
    fig.text(0.7, 1 - 0.14 / height, title, va="top", size=9.5, weight="bold")
    place = {latent: y for y, latent in enumerate(shown)}
    effect = np.full((len(shown), len(names)), np.nan)
    here = rows[rows["latent"].isin(place)]
    for row in here.to_dict("records"):
        effect[place[row["latent"]], names.index(row["confounder"])] = row["effect"]
    ax.set_facecolor("#F3F5F7")
    picture = ax.imshow(effect, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto")
    for row in here.to_dict("records"):
        if row["verdict"] in SUSPECT:
            ax.scatter(
                names.index(row["confounder"]),
                place[row["latent"]],
                s=26,
                color=style.VERDICT_COLOURS[row["verdict"]],
                edgecolor="white",
                linewidth=0.7,
            )
    wrapped = [textwrap.fill(style.words(name), 16) for name in names]
    ax.set_xticks(range(len(names)), wrapped, rotation=90, va="bottom")
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(shown)), [str(latent) for latent in shown], size=6.5)
    severest = overall(here).set_index("latent")["verdict"]
    for label, latent in zip(ax.get_yticklabels(), shown, strict=True):
        faint = severest[latent] == UNASSOCIATED
        label.set_color(style.FAINT if faint else style.VERDICT_COLOURS[severest[latent]])
        label.set_fontweight("normal" if faint else "bold")
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for x in range(len(names) - 1):
        ax.axvline(x + 0.5, color="white", linewidth=1.5)
    for y in range(len(shown) - 1):
        ax.axhline(y + 0.5, color="white", linewidth=1)
    bar = fig.add_axes((0.7, 1 - (1.5 + tall + 0.2) / height, 0.285, 0.1 / height))
    fig.colorbar(picture, cax=bar, orientation="horizontal")
    bar.set_xlabel(
        "discrimination by the latent, concept held fixed\n(2 AUROC − 1); dots: suspect; "
        "grey: not associated",
        size=8,
    )
    bar.set_xticks([-1, 0, 1])
    bar.tick_params(length=2)


def _legend(fig: Figure, min_kept: float) -> None:
    handles: list[Artist] = [
        Line2D([], [], color=style.VERDICT_COLOURS[v], marker="o", linestyle="none", label=v)
        for v in JUDGED
    ]
    shaded = f"under {min_kept:.0%} of the crude excess over 0.5 remains within levels"
    handles.append(Patch(facecolor=SHADE, edgecolor=style.RULE, label=shaded))
    fig.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.005, 1 - 0.36 / fig.get_figheight()),
        ncols=len(handles),
        handletextpad=0.5,
        columnspacing=1.4,
    )
