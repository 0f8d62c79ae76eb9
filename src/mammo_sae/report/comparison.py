"""Sentences about the trained SAEs and their controls, from the table `controls`."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from mammo_sae.complaints import listed
from mammo_sae.errors import counted
from mammo_sae.report import style
from mammo_sae.report.controls import EQUAL, LOSES, UNKNOWN, WINS

K = 10  # number of latents kept or dropped; the nearest number in the table is used
# Analysis -> its name in sentences, in their order.
ANALYSES = {
    "probing": "probing",
    "latents": "single latents",
    "alignment": "alignment with the lesion",
    "confounds": "confounders",
    "interventions": "interventions",
}
MEASURES = {
    "auroc_sparse": "AUROC of a probe on {k}",
    "auroc_l2": "AUROC of a probe on all latents",
    "auroc_best": "AUROC of the best latent",
    "energy_lift": "energy lift of the best latent",
    "pooled_iou": "pooled IoU of the best latent",
    "share_on_lesion": "share of the best {k} that fire on the lesion",
    "share_aligned": "share of associated latents that are the finding itself",
    "share_confounded": "share of associated latents that are an artefact (less is better)",
    "auroc_on": "AUROC of the prediction from the best {k} alone",
    "auroc_off": "AUROC of the prediction without the best {k} (less is better)",
}
OPENINGS = {
    WINS: "It wins",
    LOSES: "It loses",
    EQUAL: "It does not differ",
    UNKNOWN: "It can't be compared",
}


def paragraphs(table: pd.DataFrame, split: str) -> list[str]:
    """Return one paragraph per encoder, layer and trained SAE: where it wins and where not.

    `split` is the split of probes and interventions that is described, if the table has it.
    """
    rows = described(table, split)
    order = {layer: i for i, layer in enumerate(style.layer_order(rows["layer"]))}
    places = rows[["encoder", "layer", "trained"]].drop_duplicates().itertuples(index=False)
    said = []
    for encoder, layer, trained in sorted(places, key=lambda p: (p[0], order[p[1]], p[2])):
        mine = (rows["encoder"] == encoder) & (rows["layer"] == layer)
        said.append(
            f"Layer {layer} of {encoder}: "
            + " ".join(_sentences(rows[mine & (rows["trained"] == trained)], trained))
        )
    return said


def described(table: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return the rows that the sentences describe: one split, and one k for each measure.

    The k of probes is the smallest, the k of interventions the one nearest to `K`.
    """
    kept = []
    for _, part in table.groupby(["encoder", "layer", "trained", "measure"], sort=False):
        splits = set(part["split"])
        shown = split if split in splits else style.splits_of(splits)[0] if splits - {""} else ""
        part = part[part["split"] == shown]
        if part["k"].notna().all():
            wanted = K if part["analysis"].iloc[0] == "interventions" else 1
            numbers = sorted(set(part["k"]), key=lambda k: (abs(k - wanted), k))
            part = part[part["k"] == numbers[0]]
        kept.append(part)
    return pd.concat(kept) if kept else table


def _sentences(rows: pd.DataFrame, trained: str) -> Iterator[str]:
    controls = listed(list(dict.fromkeys(rows["control"])), "and")
    counts = rows["outcome"].value_counts()
    parts = [
        f"{word} in {counts.get(outcome, 0)}"
        for outcome, word in ((WINS, "wins"), (EQUAL, "does not differ"), (LOSES, "loses"))
    ]
    unknown = counts.get(UNKNOWN, 0)
    yield (
        f"In {counted(len(rows), 'comparison')} with {controls}, the trained SAE {trained} "
        f"{listed(parts, 'and')}"
        + (f"; {counted(unknown, 'is', 'are')} not estimable." if unknown else ".")
    )
    for outcome, opening in OPENINGS.items():
        for analysis, name in ANALYSES.items():
            here = rows[(rows["outcome"] == outcome) & (rows["analysis"] == analysis)]
            if len(here):
                yield f"{opening} in {name}: {'; '.join(_items(here, outcome))}."


def _items(rows: pd.DataFrame, outcome: str) -> Iterator[str]:
    """Yield, for each measure and concept, the trained SAE's value and those of the controls."""
    for (measure, concept), part in rows.groupby(["measure", "concept"], sort=False):
        k = part["k"].iloc[0]
        count = "" if pd.isna(k) else counted(k, "latent")
        name = f"{MEASURES[str(measure)].format(k=count)}, {style.words(str(concept))}"
        if outcome == UNKNOWN:
            reasons = dict.fromkeys(part["reason"])
            yield f"{name} ({'; '.join(reasons)})"
            continue
        others = [
            f"{value:.2f} ({control})"
            for control, value in zip(part["control"], part["control_value"], strict=True)
        ]
        yield f"{name}: {part['trained_value'].iloc[0]:.2f} against {listed(others, 'and')}"
