"""The tables behind the pages of confounders, interventions and known truth, of one SAE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mammo_sae.analysis.cases import Identity
from mammo_sae.atlas.tables import Tables

# Page -> table -> the columns that are shown.
EVIDENCE: Mapping[str, Mapping[str, Sequence[str]]] = {
    "confounders": {
        "confounds": (
            *("latent", "concept", "confounder", "kind", "crude_auroc", "stratified_auroc"),
            *("stratified_auroc_low", "stratified_auroc_high", "conditional_auroc"),
            *("conditional_auroc_low", "conditional_auroc_high", "q", "verdict", "reason"),
        )
    },
    "interventions": {
        "interventions": (
            *("concept", "split", "ranking", "selection", "mode", "splice", "k", "latents_kept"),
            *("auroc", "auroc_low", "auroc_high", "auprc", "auprc_low", "auprc_high"),
            *("f1", "f1_low", "f1_high", "reason"),
        ),
        "ablation": (
            *("concept", "split", "called_for", "verdicts", "latents", "refit", "confounder"),
            *("measure", "group", "before", "after", "difference", "difference_low"),
            *("difference_high", "random_difference", "random_difference_low"),
            *("random_difference_high", "reason"),
        ),
        "reliance": (
            *("concept", "split", "verdict", "latents", "share", "share_low", "share_high"),
            "reason",
        ),
    },
    "truth": {
        "truth": (
            *("concept", "confounder", "role", "measure", "latents", "hits", "value"),
            *("low", "high", "reason"),
        )
    },
}


def evidence_tables(tables: Tables, identity: Identity) -> dict[str, dict[str, Any]]:
    """Return page -> table -> {"names", "rows"}. A table that the run does not have is None."""
    found: dict[str, dict[str, Any]] = {}
    for page, wanted in EVIDENCE.items():
        found[page] = {}
        for name, columns in wanted.items():
            rows = tables.of(name, identity)
            kept = [column for column in columns if column in rows]
            content = {"names": kept, "rows": rows[kept].to_numpy(dtype=object).tolist()}
            found[page][name] = content if len(rows) else None
    return found
