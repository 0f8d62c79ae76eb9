"""Step: write the headline figures of a run, for the first page of its report.

The page and the log begin with a warning if a fine-tuned encoder does not beat a linear probe on
its base encoder. Such an encoder has learnt nothing new, so all results for it describe a network
without an improvement.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from mammo_sae.analysis.cases import IDENTITY
from mammo_sae.analysis.verdict import JUDGED, MEANING, associated
from mammo_sae.report import comparison, style
from mammo_sae.report.names import CONCEPT, CONFOUNDER, NEITHER
from mammo_sae.report.verdicts import ON, SIGNIFICANT, TOP
from mammo_sae.report.words import (
    CARRIED,
    Results,
    paragraphs,
    shown_split,
    why_no_worst,
    worst_rows,
)
from mammo_sae.stores.publish import atomic_file
from mammo_sae.stores.tables import read_table

AGREED = (CONCEPT, CONFOUNDER, NEITHER)
PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Headline figures</title></head>
<body><div class="headline">
<style>
.prose.max-w-lg {{ max-width: 60rem; }}
.headline {{ font: 13px/1.4 sans-serif; }}
.headline table {{ border-collapse: collapse; margin: .3em 0 1em; font-size: 12px; }}
.headline table {{ display: block; max-width: 100%; overflow-x: auto; }}
.headline th, .headline td {{ padding: .15em .6em; text-align: left; }}
.headline td {{ white-space: pre; }}
.headline th, .headline td {{ border-bottom: 1px solid #D9DEE3; }}
.headline .warning {{ border: 2px solid #B3261E; color: #B3261E; padding: .5em .8em; }}
</style>
{content}
</div></body></html>
"""


def run(
    *,
    encoders: Path,
    latents: Path,
    verdicts: Path,
    split: str,
    output: Path,
    bases: Mapping[str, str] | None = None,
    ablation: Path | None = None,
    reliance: Path | None = None,
    replication: Path | None = None,
    verdict_replication: Path | None = None,
    verdict_stability: Path | None = None,
    controls: Path | None = None,
    names: Path | None = None,
) -> list[Path]:
    """Write the headline figures of a run, and warn where fine-tuning has not helped.

    Parameters
    ----------
    encoders, latents, verdicts
        Tables of all encoders and SAEs.
    split
        The confirmation split, on which latents are scored.
    output
        Page to write (.html).
    bases
        The pretrained encoder from which each fine-tuned one started. None: none is fine-tuned.
    ablation, reliance
        Tables of all SAEs at the head layer. None: the run has no SAE there.
    replication, verdict_replication
        Tables of verdicts on other splits. None: the run has no external split.
    verdict_stability
        Table of verdicts of other seeds. None: each SAE has one seed.
    controls
        Table of the comparisons with controls. None: the run has no control.
    names
        Table of the names of latents in words. None: latents get no names.
    """
    scores, ranked, judged = (read_table(path) for path in (encoders, latents, verdicts))
    warnings = not_better(scores, bases or {})
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    content = [f'<p class="warning"><b>{html.escape(text)}</b></p>' for text in warnings]
    content += ["<p><b>How well the encoders predict</b>: AUROC with 95 % interval.</p>"]
    content += [_table(*predictions(scores))]
    more = {
        name: None if path is None else read_table(path)
        for name, path in (
            ("replication", replication),
            ("verdict_replication", verdict_replication),
            ("verdict_stability", verdict_stability),
            ("ablation", ablation),
            ("reliance", reliance),
            ("names", names),
        )
    }
    said = paragraphs(Results(judged, **more), TOP)
    if said:
        content += [
            f"<p><b>Which of the top latents are what they seem?</b> Of each concept, the {TOP} "
            "latents that the discovery split ranks first and that were tested. A split in which a "
            "confounder is not associated with the concept does not repeat the verdict confounded: "
            "there the latent is not associated either.</p>",
            *said,
        ]
    content += [
        f"<p><b>Which latents respond to a concept</b>, in the {html.escape(split)} split. "
        "<i>Associated</i>: number of latents whose AUROC differs from 0.5 with q below "
        f"{SIGNIFICANT:g}, of all latents. <i>On the lesion</i>: number of latents that fire on "
        f"the lesion, of the {TOP} latents that the discovery split ranks first and whose location "
        "can be estimated. <i>Tested</i>: number of associated latents that were tested for other "
        "causes of their association; the next columns count their verdicts.</p>"
    ]
    content += [_table(*carriers(ranked, judged))]
    if more["names"] is not None:
        content += [
            "<p><b>What latents are called</b>. A latent has a name if one phrase of the "
            "vocabulary fits it better than chance, on other patients than those who chose the "
            "phrase. <i>Concept</i>: the phrase describes the concept with which the latent is "
            "most associated. <i>Confounder</i>: it describes the confounder of the latent's "
            "verdict. <i>Neither</i>: it describes something else that is labelled.</p>",
            _table(*called(more["names"])),
        ]
    scores, shares = more["ablation"], more["reliance"]
    if scores is not None and shares is not None:
        content += [
            "<p><b>What the predictions rest on</b>, at the head. The columns with shares divide "
            "the logit's difference between positive and negative images among the latents of each "
            "verdict, the latents that were not tested, and the SAE's error. They add up to 100%. "
            "The last columns give the AUROC in the worst group of each confounder that explains "
            "latents, before and after these latents are ablated at a layer.</p>"
        ]
        content += [_table(*rests_on(scores, shares))]
    if controls is not None:
        content += _against_controls(read_table(controls), split)
    with atomic_file(output) as aside:
        aside.write_text(PAGE.format(content="\n".join(content)), encoding="utf-8")
    return [output]


def _against_controls(table: pd.DataFrame, split: str) -> list[str]:
    return [
        "<p><b>Where a trained SAE is better than its controls</b>, dictionaries that were not "
        "learnt. It <i>wins</i> if the 95 % interval of the difference lies on its side of 0, "
        "<i>loses</i> if it lies on the other side, and <i>does not differ</i> if the interval "
        "contains 0. The table <i>controls</i> has all values with their intervals.</p>",
        *(f"<p>{html.escape(text)}</p>" for text in comparison.paragraphs(table, split)),
    ]


def not_better(scores: pd.DataFrame, bases: Mapping[str, str]) -> list[str]:
    """Return a sentence per concept and split in which fine-tuning does not beat the base."""
    auroc = scores.set_index(["encoder", "concept", "split"])["auroc"].dropna()
    said = []
    for tuned, base in bases.items():
        for concept in sorted(scores["concept"].unique()):
            for split in style.splits_of(scores["split"]):
                pair = [auroc.get((name, concept, split)) for name in (tuned, base)]
                if split == "training" or None in pair or pair[0] > pair[1]:
                    continue
                said.append(
                    f"Fine-tuning did not help: {tuned} predicts {style.words(concept)} in the "
                    f"{split} split with an AUROC of {pair[0]:.2f}, a linear probe on its base "
                    f"{base} with {pair[1]:.2f}. The report's results for {tuned} describe a "
                    "network that has learnt no more than its base; train longer or change the "
                    "recipe."
                )
    return said


def predictions(scores: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: concept, encoder, AUROC in each split except training."""
    splits = [s for s in style.splits_of(scores["split"]) if s != "training"] or ["training"]
    rows = []
    for (concept, encoder), part in scores.groupby(["concept", "encoder"], sort=True):
        by_split = part.set_index("split")
        cells = []
        for split in splits:
            if split not in by_split.index:
                cells.append("no image")
                continue
            row = by_split.loc[split]
            said = style.estimate(row["auroc"], row["auroc_low"], row["auroc_high"])
            cells.append(f"{said}: {row['reason']}" if pd.isna(row["auroc"]) else said)
        rows.append([style.words(concept), encoder, *cells])
    return ["concept", "encoder", *(f"AUROC, {split}" for split in splits)], rows


def carriers(latents: pd.DataFrame, verdicts: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return a table's header, and its rows, one per concept and SAE.

    A row has the number of associated latents, the locations of the best ones, and the counts of
    the verdicts.
    """
    judged = associated(verdicts.rename(columns={"auroc": "concept_auroc"}))
    order = {layer: i for i, layer in enumerate(style.layer_order(latents["layer"]))}
    rows = []
    # In the table, the trained SAEs of a layer come before its controls.
    for key, part in latents.groupby(["concept", *IDENTITY], sort=False):
        mine, counted = verdicts, judged
        for name, value in zip(["concept", *IDENTITY], key, strict=True):
            mine, counted = mine[mine[name] == value], counted[counted[name] == value]
        tested = part["auroc"].notna()
        carrying = int((part["q"] < SIGNIFICANT).sum())
        top = mine[(mine["rank_auroc"] <= TOP) & (mine["where"] != "")]
        concept, encoder, layer, sae, seed = key
        cells = [
            f"{carrying} of {len(part)}" if tested.any() else "not estimable",
            f"{int((top['where'] == ON).sum())} of {len(top)}" if len(top) else "not estimable",
            str(len(counted)),
            *(str(int((counted["verdict"] == word).sum())) for word in JUDGED),
        ]
        label = [style.words(concept), encoder, layer, f"{sae} seed {seed}"]
        rows.append((concept, encoder, order[layer], [*label, *cells]))
    header = [
        "concept",
        "encoder",
        "layer",
        "SAE",
        "associated",
        f"top {TOP} on the lesion",
        "tested",
        *(f"{MEANING[word]} ({word})" for word in JUDGED),
    ]
    return header, [row[-1] for row in sorted(rows, key=lambda row: row[:-1])]


def called(names: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return a table's header, and its rows, one per SAE.

    A row has the number of latents with a name, and the counts of what the label of the name is.
    """
    order = {layer: i for i, layer in enumerate(style.layer_order(names["layer"]))}
    rows = []
    for key, part in names.groupby([*IDENTITY], sort=False):
        encoder, layer, sae, seed = key
        has = part["name"].fillna("") != ""
        counts = part["agreement"].value_counts()
        cells = [f"{int(has.sum())} of {len(part)}", *(str(counts.get(word, 0)) for word in AGREED)]
        rows.append((encoder, order[layer], [encoder, layer, f"{sae} seed {seed}", *cells]))
    header = ["encoder", "layer", "SAE", "with a name", *(f"name is of: {word}" for word in AGREED)]
    return header, [row[-1] for row in sorted(rows, key=lambda row: row[:-1])]


def rests_on(ablation: pd.DataFrame, reliance: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return a table's header, and its rows, one per concept and SAE.

    A row has the share of the logit difference that each verdict's latents carry at the head, and
    the AUROC in the worst group of each confounder before and after the ablation of the latents
    that it explains, at the head and at each inner layer of the table `ablation`.

    The split is that of `shown_split`.
    """
    split = shown_split(ablation)
    layers = style.layer_order(ablation["layer"])[::-1]
    rows = []
    keys = ["concept", "encoder", "sae", "seed"]
    for key, part in reliance.groupby(keys, sort=True):
        concept, encoder, sae, seed = key
        share = part[part["split"] == split].set_index("verdict")["share"]
        words = [
            style.percent(share[w]) if pd.notna(share.get(w)) else "not estimable" for w in CARRIED
        ]
        mine = ablation[(ablation[keys] == list(key)).all(axis=1)]
        said = [_worst_group(mine[mine["layer"] == layer]) for layer in layers]
        rows.append([style.words(concept), encoder, f"{sae} seed {seed}", *words, *said])
    worst = [f"AUROC in the worst group, {split}, ablated at {layer}" for layer in layers]
    return ["concept", "encoder", "SAE", *CARRIED, *worst], rows


def _worst_group(ablation: pd.DataFrame) -> str:
    """Return the AUROC in each confounder's worst group before and after, for the rows of one SAE.

    Each confounder has a line.
    """
    if ablation.empty:
        return "not ablated"
    lines = []
    for row in worst_rows(ablation).to_dict("records"):
        change = style.estimate(row["difference"], row["difference_low"], row["difference_high"])
        lines.append(
            f"{style.words(row['confounder'])}: {row['before']:.2f} to {row['after']:.2f}, "
            f"difference {change}"
        )
    return "\n".join(lines) or why_no_worst(ablation)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    lines = [
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
