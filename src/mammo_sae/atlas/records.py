"""The data of the layer page and of the latent page: what the tables say of the latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mammo_sae.analysis.cases import Identity
from mammo_sae.atlas.choice import Shown
from mammo_sae.atlas.sentences import address
from mammo_sae.atlas.tables import Tables, by_latent
from mammo_sae.report.words import NAMED

SHARD = 64  # latents per data file

# Table -> what the latent's page shows of each of its rows.
SECTIONS: Mapping[str, Sequence[str]] = {
    "latents": (
        *("concept", "discovery_auroc", "rank_auroc", "auroc", "auroc_low", "auroc_high", "q"),
        *("mean_positive", "mean_negative", "reason"),
    ),
    "verdicts": ("concept", "verdict", "confounders", "where", "reason"),
    "names": (
        *("name", "agreement", "best", "score", "runner_up", "runner_up_score"),
        *("decoy", "decoy_score", "cosine", "chance_cosine"),
        *("auroc", "auroc_low", "auroc_high", "q", "reason"),
    ),
    "alignment": (
        *("concept", "selection", "images", "fires"),
        *("energy_lift", "energy_lift_low", "energy_lift_high"),
        *("shuffled_energy_lift", "matched_energy_lift"),
        *("pointing", "pointing_low", "pointing_high", "shuffled_pointing", "matched_pointing"),
        *("auprc", "auprc_low", "auprc_high", "chance_auprc", "pooled_iou", "q", "reason"),
    ),
    "alignment_by_size": (
        *("concept", "split", "size", "size_low", "size_high", "size_unit", "images"),
        *("energy_lift", "energy_lift_low", "energy_lift_high", "reason"),
    ),
    "confounds": (
        *("concept", "confounder", "kind", "crude_auroc", "stratified_auroc"),
        *("stratified_auroc_low", "stratified_auroc_high", "kept", "conditional_auroc"),
        *("conditional_auroc_low", "conditional_auroc_high", "q", "verdict", "reason"),
    ),
    "effects": (
        *("concept", "split", "weight", "effect", "effect_low", "effect_high", "share"),
        *("rank_causal", "reason"),
    ),
    "attribution": (
        *("concept", "split", "attribution", "attribution_low", "attribution_high"),
        *("ablation", "ablation_low", "ablation_high", "rank_attribution", "reason"),
    ),
    "matched_latents": ("concept", "split", "match", "cosine", "null_cosine", "new"),
    "replication": (
        *("concept", "split", "verdict", "split_verdict", "split_auroc", "split_auroc_low"),
        *("split_auroc_high", "repeated", "reason"),
    ),
    "regions": (
        *("concept", "split", "region", "images", "fires", "energy_lift"),
        *("energy_lift_low", "energy_lift_high", "reason"),
    ),
    "responses": ("component", "pairs", "response", "response_low", "response_high", "reason"),
}
# What the latent's page shows of a match with a latent of another encoder.
MATCHED = ("correlation", "discovery_correlation", "chance", "matched", "reason")
# Columns of the layer's table that each concept has, and the table that each comes from.
PER_CONCEPT: Mapping[str, Sequence[str]] = {
    "latents": ("auroc", "auroc_low", "auroc_high", "q", "rank_auroc"),
    "verdicts": ("verdict", "confounders", "where", "energy_lift", "pointing"),
}


def layer_columns(
    tables: Tables, identity: Identity, detailed: np.ndarray, split: str
) -> dict[str, Any]:
    """Return the table of all latents of an SAE, column by column.

    The first columns are the latent, its firing rate (share of cells, discovery split), whether its
    page has images, and its name in words if the run has names. For each concept follow the columns
    `<concept>|<name>`. A value that the run does not have is missing.
    """
    ranked = tables.of("latents", identity)
    first = ranked.drop_duplicates("latent").sort_values("latent").set_index("latent")
    columns: dict[str, list[Any]] = {
        "latent": first.index.tolist(),
        "firing_rate": first["firing_rate"].tolist(),
        "images": np.isin(first.index, detailed).astype(int).tolist(),
    }
    names = tables.of("names", identity)
    if len(names):
        named = names.set_index("latent")["name"].reindex(first.index)
        columns["name"] = named.where(named != "", None).tolist()
    effects = tables.of("effects", identity)
    if len(effects):
        effects = effects[effects["split"] == split]
    for concept in tables.concepts():
        sources = [(_table(tables, name, identity), names) for name, names in PER_CONCEPT.items()]
        if len(effects):
            sources.append((effects, ("effect", "share")))
        for table, names in sources:
            mine = table[table["concept"] == concept].drop_duplicates("latent").set_index("latent")
            for name in names:
                values = mine[name].reindex(first.index) if name in mine else [None] * len(first)
                columns[f"{concept}|{name}"] = [None if pd.isna(v) else v for v in values]
    return {"names": list(columns), "values": list(columns.values())}


def _table(tables: Tables, name: str, identity: Identity) -> pd.DataFrame:
    """Return the rows of a table of one SAE. Verdicts name only those confounders that explain."""
    rows = tables.of(name, identity)
    if name != "verdicts" or rows.empty:
        return rows
    return rows.assign(confounders=rows["confounders"].where(rows["verdict"].isin(NAMED)))


def sections(tables: Tables, identity: Identity, latents: np.ndarray) -> dict[int, dict[str, Any]]:
    """Return latent -> table -> {"names", "rows"}, for those tables that have rows of it."""
    found: dict[int, dict[str, Any]] = {int(latent): {} for latent in latents}
    for name, wanted in SECTIONS.items():
        rows = _table(tables, name, identity)
        if rows.empty:
            continue
        kept = [column for column in wanted if column in rows]
        rows = rows[rows["latent"].isin(latents)]
        for latent, mine in by_latent(rows[["latent", *kept]]).items():
            found[latent][name] = {
                "names": kept,
                "rows": [[row[column] for column in kept] for row in mine],
            }
    return found


def matches(tables: Tables, identity: Identity, latents: np.ndarray) -> dict[int, dict[str, Any]]:
    """Return latent -> its partners in SAEs of other encoders, from `activation_matches`.

    `activation_matches` has the latent's own partner. `matched_by` has the latents of other
    encoders whose partner it is.
    """
    table = tables["activation_matches"]
    found: dict[int, dict[str, Any]] = {int(latent): {} for latent in latents}
    if table.empty:
        return found
    alike = ["layer", "sae", "seed"]
    mine = table[(table[alike] == [getattr(identity, name) for name in alike]).all(axis=1)]
    for section, own, other, there in (
        ("activation_matches", ("encoder", "latent"), "reference", "match"),
        ("matched_by", ("reference", "match"), "encoder", "latent"),
    ):
        side, number = own
        rows = mine[(mine[side] == identity.encoder) & mine[number].isin(latents)]
        for row in rows.sort_values("correlation", ascending=False).to_dict("records"):
            content = found[int(row[number])].setdefault(
                section, {"names": ["sae", "latent", *MATCHED], "rows": []}
            )
            where = address(replace(identity, encoder=row[other]))
            content["rows"].append([where, row[there], *(row[name] for name in MATCHED)])
    return found


def shown_images(
    shown: Shown, heat: Mapping[int, str], image_ids: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the groups of images of a latent for its page.

    `heat` has the packed map of each position, and `image_ids` the pseudonym of each position.
    """
    return [
        {
            "kind": kind,
            "images": [
                {
                    "image": image_ids[example.position],
                    "positive": example.positive,
                    "activation": example.activation,
                    "heat": heat[example.position],
                }
                for example in examples
            ],
        }
        for kind, examples in shown.groups.items()
    ]


def shards(records: Mapping[int, Any]) -> dict[int, dict[int, Any]]:
    """Return number of a data file -> latent -> its record: 64 latents per file, by number."""
    found: dict[int, dict[int, Any]] = {}
    for latent in sorted(records):
        found.setdefault(latent // SHARD, {})[latent] = records[latent]
    return found
