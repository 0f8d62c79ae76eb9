"""Step: summarise a latent's tests: its verdict over all confounders, and its location."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mammo_sae.analysis.cases import IDENTITY
from mammo_sae.analysis.verdict import overall
from mammo_sae.stores.tables import read_table, write_table

TOP = 10  # number of latents with the highest discovery AUROC whose location is counted
SIGNIFICANT = 0.05  # q-value of the alignment with the lesion
POINTS = 0.5  # least share of firing images in which the highest cell must touch the lesion
ON, OFF, UNCLEAR = "on the lesion", "off the lesion", "where: unclear"


def run(*, latents: Path, alignment: Path, confounds: Path, csv: Path, parquet: Path) -> list[Path]:
    """Write one row per SAE, concept and tested latent, with its verdict and location.

    Parameters
    ----------
    latents, alignment, confounds
        Tables of all SAEs.
    csv, parquet
        Tables to write: identity, concept, latent, rank_auroc (discovery), auroc with interval and
        q (confirmation), verdict (the most severe), the confounders with that verdict and its
        reason, discriminates (what the latent discriminates), where (see `location`; empty: not
        estimable), energy_lift, pointing.
    """
    keys = [*IDENTITY, "concept", "latent"]
    table = overall(read_table(confounds))
    ranked = read_table(latents)[[*keys, "rank_auroc", "auroc", "auroc_low", "auroc_high", "q"]]
    table = table.drop(columns="concept_auroc").merge(ranked, on=keys, how="left", validate="1:1")
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
    after = ["confounders", "discriminates", "where", "energy_lift", "pointing", "reason"]
    table = table[[*first, *after]]
    # The SAEs have the order of the table of latents: trained SAEs before controls.
    saes = list(ranked[[*IDENTITY]].drop_duplicates().itertuples(index=False, name=None))
    place = [saes.index(sae) for sae in table[[*IDENTITY]].itertuples(index=False, name=None)]
    table = table.assign(place=place).sort_values(
        ["place", "concept", "rank_auroc", "latent"], ignore_index=True
    )[table.columns]
    write_table(table, csv)
    write_table(table, parquet)
    return [csv, parquet]


def location(scores: pd.Series) -> str:
    """Return whether a latent fires on the lesion, from its alignment row; "" if not estimable.

    On the lesion, if all of these hold: q < 0.05; the interval of its energy lift lies above chance
    (1) and above the lift with shuffled masks; the interval of its pointing score lies above that
    with shuffled masks; and its highest cell touches the lesion in at least half of the positive
    images in which it fires. Off the lesion, if the interval of its lift lies below chance.
    Otherwise unclear.
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
