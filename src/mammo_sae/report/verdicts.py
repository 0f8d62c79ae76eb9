"""One verdict per latent and concept, out of those for each confounder."""

from __future__ import annotations

import pandas as pd

from mammo_sae.analysis.cases import IDENTITY

# What a reader must know first comes first.
SEVERITY = ("confounded", "mixed", "unresolved", "concept-aligned", "insufficient")


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
