"""Statements in words for the first page: which top latents of a concept are what they seem."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mammo_sae.analysis.agreement import ALL
from mammo_sae.analysis.cases import IDENTITY
from mammo_sae.analysis.verdict import (
    ALIGNED,
    ANATOMY,
    CONFOUNDED,
    INSUFFICIENT,
    MIXED,
    SAE_ERROR,
    SUSPECT,
    UNASSOCIATED,
    UNRESOLVED,
    UNTESTED,
    significance,
)
from mammo_sae.errors import counted
from mammo_sae.report import style

KEYS = ("concept", *IDENTITY)
# Verdict -> what is said of the latents that have it. `SEVERAL` or `ONE` has the words in braces.
SAID = {
    ALIGNED: "what {they} {seem}: no tested confounder explains {their} association",
    MIXED: "partly what {they} {seem}: {they} {respond} to {concept} and to a confounder",
    CONFOUNDED: "not what {they} {seem}: a confounder of the acquisition explains {their} "
    "association",
    ANATOMY: "not what {they} {seem}: tissue, view or age explains {their} association",
    UNRESOLVED: "undecided: {concept} and a confounder can't be separated",
    INSUFFICIENT: "untested: too few patients to test a confounder",
    UNASSOCIATED: "not associated with {concept} on the patients of the confirmation split",
}
# The words of a sentence about several latents, and about one.
SEVERAL = {"are": "are", "they": "they", "their": "their", "seem": "seem", "respond": "respond"}
ONE = {"are": "is", "they": "it", "their": "its", "seem": "seems", "respond": "responds"}
NAMED = (*SUSPECT, UNRESOLVED)  # verdicts whose confounders are named
# The parts of a prediction, of which the shares add up to 1.
CARRIED = (*SAID, UNTESTED, SAE_ERROR)


@dataclass(frozen=True)
class Results:
    """The tables of a run; None if the run does not have one."""

    verdicts: pd.DataFrame
    replication: pd.DataFrame | None = None
    verdict_replication: pd.DataFrame | None = None
    verdict_stability: pd.DataFrame | None = None
    ablation: pd.DataFrame | None = None
    reliance: pd.DataFrame | None = None
    names: pd.DataFrame | None = None


def paragraphs(results: Results, top: int) -> list[str]:
    """Return HTML: for each concept, what is known of its best latents in each SAE.

    The `top` latents with the largest discovery AUROC are named. The last layer with SAEs is shown,
    and the other layers can be unfolded.
    """
    table = results.verdicts
    if table.empty:
        return []
    layers = style.layer_order(table["layer"])
    text = []
    for concept, rows in table.groupby("concept", sort=True):
        text.append(f"<p><b>{html.escape(style.words(str(concept)).capitalize())}</b></p>")
        shown: dict[str, list[str]] = {layer: [] for layer in layers}
        # In the table, the trained SAEs of a layer come before its controls.
        for key, mine in rows.groupby([*IDENTITY], sort=False):
            where = dict(zip(KEYS, (concept, *key), strict=True))
            shown[str(where["layer"])] += _of_one_sae(results, where, mine, top)
        text += shown[layers[-1]]
        others = [line for layer in layers[:-1] for line in shown[layer]]
        if others:
            text.append(f"<details><summary>Other layers</summary>{''.join(others)}</details>")
    return text


def _of_one_sae(
    results: Results, where: Mapping[str, object], mine: pd.DataFrame, top: int
) -> list[str]:
    name = f"{where['encoder']}, {where['layer']}, SAE {where['sae']} seed {where['seed']}"
    best = mine[mine["rank_auroc"] <= top].sort_values("rank_auroc")
    called = _names(results.names, where)
    lines = [*members(best, _rows(results.replication, where), called)]
    lines += repeats(
        _rows(results.verdict_replication, where), _rows(results.verdict_stability, where)
    )
    lines += rests(_rows(results.reliance, where), _rows(results.ablation, where))
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return [f"<p>{html.escape(name)}:</p><ul>{items}</ul>"]


def _rows(table: pd.DataFrame | None, where: Mapping[str, object]) -> pd.DataFrame:
    if table is None:
        return pd.DataFrame()
    for name, value in where.items():
        table = table[table[name] == value]
    return table


def _names(table: pd.DataFrame | None, where: Mapping[str, object]) -> dict[int, str]:
    """Return the names of the latents of one SAE that have one."""
    if table is None:
        return {}
    mine = _rows(table, {key: where[key] for key in IDENTITY})
    mine = mine[mine["name"].fillna("") != ""]
    return dict(zip(mine["latent"].astype(int), mine["name"], strict=True))


def members(
    best: pd.DataFrame, replication: pd.DataFrame, called: Mapping[int, str] | None = None
) -> Iterator[str]:
    """Yield a line per verdict with the latents of `best` that have it, and how sure it is.

    `best` has the rows of the table `verdicts` of one SAE and concept, `replication` the rows of
    the table of this name, and `called` the names in words of the latents that have one.
    """
    if best.empty:
        yield "None of the latents that rank first was tested."
        return
    for verdict, said in SAID.items():
        mine = best[best["verdict"] == verdict]
        if mine.empty:
            continue
        concept = style.words(str(mine["concept"].iloc[0]))
        latents = [_latent(row, replication, called or {}) for row in mine.to_dict("records")]
        several = f"{len(mine)} of the {len(best)} latents that rank first"
        which = "The latent that ranks first" if len(best) == 1 else several
        forms = ONE if len(mine) == 1 else SEVERAL
        line = f"{which} {{are}} {said}: "
        yield line.format(concept=concept, **forms) + "; ".join(latents) + "."


def _latent(row: Mapping[str, Any], replication: pd.DataFrame, called: Mapping[int, str]) -> str:
    auroc = style.estimate(row["auroc"], row["auroc_low"], row["auroc_high"])
    parts = [f"AUROC {auroc}"]
    if pd.notna(row["q"]):
        parts.append(significance("q", row["q"]))
    if row["verdict"] in NAMED:
        parts.insert(0, style.words(str(row["confounders"])))
    if row["where"] and pd.notna(row["where"]):
        parts.append(str(row["where"]))
    again = replication[replication["latent"] == row["latent"]] if len(replication) else replication
    for other in again.to_dict("records"):
        ends = (other["split_auroc_low"], other["split_auroc_high"])
        found = style.estimate(other["split_auroc"], *ends)
        kept = "" if pd.isna(other["repeated"]) or not other["repeated"] else "again "
        parts.append(f"{other['split']}: AUROC {found}, {kept}{other['split_verdict']}")
    name = f" “{called[row['latent']]}”" if row["latent"] in called else ""
    return f"latent {row['latent']}{name} ({', '.join(parts)})"


def repeats(replication: pd.DataFrame, stability: pd.DataFrame) -> Iterator[str]:
    """Yield how many verdicts of all associated latents another split and other seeds repeat."""
    for table, by in ((replication, "split"), (stability, "other_seed")):
        for row in table.to_dict("records"):
            if row["verdict"] != ALL:
                continue
            what = f"seed {row[by]}" if by == "other_seed" else f"the {row[by]} split"
            if not row["tested"]:
                yield f"How many verdicts {what} repeats can't be estimated: {row['reason']}."
                continue
            number = counted(row["tested"], "verdict")
            yield (
                f"{what.capitalize()} repeats {row['repeated']} of {number} "
                f"({row['share']:.0%}; by chance {row['chance']:.0%})."
            )


def rests(reliance: pd.DataFrame, ablation: pd.DataFrame) -> Iterator[str]:
    """Yield what the prediction rests on, and each confounder's worst group after an ablation.

    Both are of the last split whose images were not used for the verdicts, if there is one.
    """
    if len(reliance) and len(ablation):
        split = shown_split(ablation)
        here = reliance[reliance["split"] == split].set_index("verdict")
        shares = [
            (word, here.loc[word, "share"], *here.loc[word, ["share_low", "share_high"]])
            for word in CARRIED
            if word in here.index and pd.notna(here.loc[word, "share"])
        ]
        if shares:
            said = [
                f"{style.percent(v)} [{style.percent(low)}, {style.percent(high)}] {word}"
                for word, v, low, high in shares
            ]
            yield f"The prediction rests on ({split} split): {', '.join(said)}."
        elif len(here):
            yield (
                f"What the prediction rests on can't be estimated ({split} split): "
                f"{here['reason'].iloc[0]}."
            )
    rows = worst_rows(ablation)
    if rows.empty and len(ablation):
        yield f"AUROC in the worst group after an ablation: {why_no_worst(ablation)}."
    for row in rows.to_dict("records"):
        change = style.estimate(row["difference"], row["difference_low"], row["difference_high"])
        random = style.estimate(
            row["random_difference"], row["random_difference_low"], row["random_difference_high"]
        )
        explained = counted(
            row["latents"], "latent that it explains is", "latents that it explains are"
        )
        yield (
            f"AUROC in the worst group of {style.words(row['confounder'])} ({row['split']} split): "
            f"{row['before']:.2f} before and {row['after']:.2f} after the {explained} ablated, "
            f"difference {change}; with random latents {random}."
        )


def shown_split(ablation: pd.DataFrame) -> str:
    """Return the last split whose images were not used for the verdicts, or else the last one."""
    splits = style.splits_of(ablation.loc[ablation["independent"], "split"])
    return (splits or style.splits_of(ablation["split"]))[-1]


def worst_rows(ablation: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one SAE and concept with the worst group of each confounder.

    The confounder with the lowest AUROC before the ablation comes first. The latents are those that
    the row's own confounder explains, the head is the encoder's own, and the split is that of
    `shown_split`.
    """
    if ablation.empty:
        return ablation
    worst = ablation[
        (ablation["split"] == shown_split(ablation)) & (ablation["measure"] == "worst_group")
    ]
    worst = worst[(worst["called_for"] == worst["confounder"]) & ~worst["refit"]]
    worst = worst[(worst["verdicts"] == CONFOUNDED) & worst["after"].notna()]
    return worst.sort_values("before", kind="stable")


def why_no_worst(ablation: pd.DataFrame) -> str:
    """Return why `worst_rows` finds no row in the rows of one SAE and concept."""
    sets = ablation[(ablation["verdicts"] == CONFOUNDED) & (ablation["measure"] == "worst_group")]
    sets = sets[(sets["latents"] > 0) & (sets["called_for"] == sets["confounder"])]
    if sets.empty:
        return "no confounded latent"
    return style.reasons(sets)
