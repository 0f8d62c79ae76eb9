"""Step: put the names of latents beside what their labels and verdicts say of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mammo_sae.analysis.cases import IDENTITY
from mammo_sae.report.verdicts import SIGNIFICANT
from mammo_sae.stores.tables import read_table, write_table

# What the label of a latent's phrase is, beside its concept and its verdict.
CONCEPT, CONFOUNDER, NEITHER = "concept", "confounder", "neither"


def run(
    *, naming: Sequence[Path], latents: Path, verdicts: Path, csv: Path, parquet: Path
) -> list[Path]:
    """Write one row per SAE and latent: its name, and beside it its concept and verdict.

    Parameters
    ----------
    naming
        Tables of the step `naming`, one per SAE.
    latents, verdicts
        Tables of all SAEs.
    csv, parquet
        Tables to write: the columns of `naming`; the concept with which the latent is most
        associated (q < 0.05), with its AUROC; the latent's verdict for it and the confounders; and
        `agreement`: whether the label of the latent's phrase is that concept, a confounder of the
        verdict, or neither. It is empty if the latent has no name, the phrase no label, or the
        latent no concept.
    """
    keys = [*IDENTITY, "latent"]
    table = pd.concat([read_table(path) for path in naming], ignore_index=True)
    table = table.merge(strongest(read_table(latents)), on=keys, how="left", validate="1:1")
    judged = read_table(verdicts)[[*keys, "concept", "verdict", "confounders"]]
    table = table.merge(judged, on=[*keys, "concept"], how="left", validate="1:1")
    words = ["concept", "verdict", "confounders"]
    table[words] = table[words].fillna("")
    table["agreement"] = [agreement(row) for _, row in table.iterrows()]
    first = [*keys, "name", "agreement", "concept", "verdict", "confounders", "concept_auroc"]
    table = table[[*first, *table.columns.drop(first)]]
    write_table(table, csv)
    write_table(table, parquet)
    return [csv, parquet]


def strongest(latents: pd.DataFrame) -> pd.DataFrame:
    """Return the concept with which each latent is most associated, and its AUROC for it.

    Only associations with q < 0.05 count. Latents without one have no row.
    """
    keys = [*IDENTITY, "latent"]
    found = latents[latents["q"] < SIGNIFICANT]
    order = (found["auroc"] - 0.5).abs().sort_values(ascending=False, kind="stable").index
    best = found.loc[order].drop_duplicates(keys)
    return best[[*keys, "concept", "auroc"]].rename(columns={"auroc": "concept_auroc"})


def agreement(row: pd.Series) -> str:
    """Return what the label of a latent's phrase is: its concept, a confounder, or neither."""
    if not row["name"] or not row["label"] or not row["concept"]:
        return ""
    if row["label"] == row["concept"]:
        return CONCEPT
    return CONFOUNDER if row["label"] in row["confounders"].split(", ") else NEITHER
