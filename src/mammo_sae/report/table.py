"""Step: join the tables of all SAEs (or encoders), as Parquet and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mammo_sae.errors import InputError
from mammo_sae.stores.tables import read_table, write_table

# Columns that identify a row, in the order by which rows are sorted. The number of the part stands
# for the names of the SAEs of a layer: in `parts`, trained SAEs come before their controls.
PART = "_part"
KEYS = (
    "encoder",
    "layer",
    PART,
    "sae",
    "seed",
    "concept",
    "split",
    "latent",
    "confounder",
    "ranking",
    "selection",
    "mode",
    "splice",
    "k",
    "measure",
)


def run(*, parts: Sequence[Path], csv: Path, parquet: Path) -> list[Path]:
    """Put the tables of all SAEs, or of all encoders, together.

    If a part lacks a column because nothing could be estimated, its rows are empty there. Parts may
    have no rows: if all latents of a layer are dead, none is tested.

    Parameters
    ----------
    parts
        Tables of single SAEs or encoders. The SAEs of a layer keep their order.
    csv, parquet
        The table to write, twice.

    Raises
    ------
    InputError
        If there is no part.
    """
    if not parts:
        raise InputError(f"no table to put into {parquet}; name at least one")
    frames = [read_table(path).assign(**{PART: number}) for number, path in enumerate(parts)]
    # A part without rows has no information on the types of its columns.
    table = pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)
    keys = [key for key in KEYS if key in table]
    table = table.sort_values(keys, kind="stable", ignore_index=True).drop(columns=PART)
    write_table(table, csv)
    write_table(table, parquet)
    return [csv, parquet]
