"""What comparisons of SAEs of several seeds share: the check of their inputs, and their keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mammo_sae.errors import InputError


def check_seeds(
    seeds: Sequence[int], saes: Sequence[Path], others: Sequence[Path], name: str
) -> None:
    """Check that there are at least two seeds, and an SAE and one of `others` for each.

    `name` says what the others are.

    Raises
    ------
    InputError
        If there are fewer than two seeds, or the numbers differ.
    """
    if len(seeds) < 2 or not len(seeds) == len(saes) == len(others):
        raise InputError(
            f"there are {len(seeds)} seeds, {len(saes)} SAEs and {len(others)} {name}; give the "
            "same number of each, at least two"
        )


def labelled(table: pd.DataFrame, encoder: str, layer: str, sae: str) -> pd.DataFrame:
    """Return `table` with the names of the encoder, the layer and the SAE as its first columns."""
    keys = pd.DataFrame({"encoder": encoder, "layer": layer, "sae": sae}, index=table.index)
    return pd.concat([keys, table], axis=1)
