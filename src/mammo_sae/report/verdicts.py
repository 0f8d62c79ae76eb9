"""Step: what a latent's tests come to: its verdict over all confounders, and where it looks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mammo_sae.analysis.cases import IDENTITY
from mammo_sae.stores.tables import read_table, write_table

SIGNIFICANT = 0.05  # q-value of the alignment with the lesion
POINTS = 0.5  # share of the images in which a latent fires that its highest cell must hit
ON, OFF, UNCLEAR = "on the lesion", "off the lesion", "where: unclear"
# What a reader must know first comes first.
SEVERITY = ("confounded", "mixed", "unresolved", "concept-aligned", "insufficient")


def run(
    *, latents: Path, alignment: Path, confounds: Path, output_csv: Path, output_parquet: Path
) -> None:
    """Write one row per SAE, concept and tested latent: what is said of it in one word.

    Parameters
    ----------
    latents, alignment, confounds
        Tables of all SAEs.
    output_csv, output_parquet
        Tables to write: identity, concept, latent, rank_auroc (discovery), auroc with interval and
        q (confirmation), verdict (the gravest) and the confounders that have it, where (see
        `location`; empty: not estimable), energy_lift, pointing.
    """
    keys = [*IDENTITY, "concept", "latent"]
    table = overall(read_table(confounds))
    ranked = read_table(latents)[[*keys, "rank_auroc", "auroc", "auroc_low", "auroc_high", "q"]]
    table = table.merge(ranked, on=keys, how="left", validate="1:1")
    aligned = read_table(alignment)
    aligned = aligned[aligned["selection"] == "ranked"]
    looks = aligned[keys].assign(
        where=[location(row) for _, row in aligned.iterrows()],
        energy_lift=aligned["energy_lift"],
        pointing=aligned["pointing"],
    )
    looks["latent"] = looks["latent"].astype(table["latent"].dtype)
    table = table.merge(looks, on=keys, how="left", validate="1:1")
    table["where"] = table["where"].fillna("")
    first = [*keys, "rank_auroc", "auroc", "auroc_low", "auroc_high", "q", "verdict"]
    table = table[[*first, "confounders", "where", "energy_lift", "pointing"]]
    table = table.sort_values([*IDENTITY, "concept", "rank_auroc", "latent"], ignore_index=True)
    write_table(table, output_csv)
    write_table(table, output_parquet)


def overall(confounds: pd.DataFrame) -> pd.DataFrame:
    """Return one row per SAE, concept and latent: its gravest verdict and the confounders with it.

    A latent that any confounder explains is confounded, whatever the others say; it is insufficient
    only if no confounder could be tested. Columns: encoder, layer, sae, seed, concept, latent,
    verdict, confounders (names, with commas).
    """
    keys = [*IDENTITY, "concept", "latent"]
    rows = confounds[[*keys, "confounder", "verdict"]].copy()
    rows["severity"] = rows["verdict"].map({word: i for i, word in enumerate(SEVERITY)})
    gravest = rows.groupby(keys, sort=True)["severity"].transform("min")
    rows = rows[rows["severity"] == gravest]
    result = rows.groupby([*keys, "verdict"], sort=True)["confounder"].agg(", ".join)
    return result.rename("confounders").reset_index()


def location(scores: pd.Series) -> str:
    """Return where a latent looks, from its row of the alignment table; "" if not estimable.

    On the lesion if all of this holds: q < 0.05; the whole interval of its energy lift lies above
    chance (1) and above the lift with masks moved between patients; the whole interval of its
    pointing lies above that with moved masks; and its highest cell touches the lesion in at least
    half of the positive images in which it fires. Off the lesion if the interval of its lift lies
    below chance. Else unclear.
    """
    if pd.isna(scores["energy_lift"]):
        return ""
    on = (
        scores["q"] < SIGNIFICANT
        and scores["energy_lift_low"] > max(1.0, scores["shuffled_energy_lift"])
        and scores["pointing_low"] > scores["shuffled_pointing"]
        and scores["pointing"] >= POINTS * scores["fires"]
    )
    if on:
        return ON
    return OFF if scores["energy_lift_high"] < 1 else UNCLEAR
