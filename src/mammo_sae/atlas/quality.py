"""The quality of each SAE, and its results beside those of its controls."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mammo_sae.analysis.cases import Identity
from mammo_sae.atlas.sentences import address, control_saes
from mammo_sae.atlas.tables import Tables

# Columns of the table `sae_quality` that the atlas shows.
QUALITY = (
    *("explained_variance", "explained_variance_pca", "explained_variance_channels"),
    *("l0", "latents", "dead_share"),
)
# Columns of the table `controls` that the page of a layer shows. The page takes `<name>_low` and
# `<name>_high` for the interval of `<name>`.
CONTROLS = (
    *("concept", "trained", "control", "measure", "k", "split", "better"),
    *("trained_value", "trained_value_low", "trained_value_high"),
    *("control_value", "control_value_low", "control_value_high"),
    *("difference", "difference_low", "difference_high", "outcome", "reason"),
)


def quality(tables: Tables) -> list[dict[str, Any]]:
    """Return a row per SAE: its address, whether it is a control, and its quality.

    `lost` has for each concept the AUROC that is lost when reconstructions take the place of the
    embeddings, and its interval. A value that the run does not have is None.
    """
    controls = control_saes(tables)
    rows = []
    for identity in tables.saes():
        mine = tables.of("sae_quality", identity)
        row = mine.iloc[0] if len(mine) else pd.Series(dtype=object)

        def value(name: str, row: pd.Series = row) -> Any:
            return None if pd.isna(row.get(name)) else row[name]

        lost = {
            concept: [value(f"auroc_lost_{concept}{end}") for end in ("", "_low", "_high")]
            for concept in tables.concepts()
        }
        about = {"sae": identity, "address": address(identity), "control": identity in controls}
        rows.append({**about, **{name: value(name) for name in QUALITY}, "lost": lost})
    return rows


def beside_controls(tables: Tables, identity: Identity) -> dict[str, Any]:
    """Return the rows of the table `controls` that have the SAE as trained one or as control."""
    table = tables["controls"]
    if table.empty:
        return {"names": [], "rows": []}
    ends = [f"{side}_{end}" for side in ("trained", "control") for end in ("low", "high")]
    table = table.rename(columns={name: name.replace("_", "_value_") for name in ends})
    mine = table[
        (table["encoder"] == identity.encoder)
        & (table["layer"] == identity.layer)
        & ((table["trained"] == identity.sae) | (table["control"] == identity.sae))
    ]
    kept = [name for name in CONTROLS if name in mine]
    return {"names": kept, "rows": mine[kept].to_numpy(dtype=object).tolist()}
