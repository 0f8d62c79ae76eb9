"""Step: write the registry of encoders: source of the weights and their terms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mammo_sae.encoders.network import read_description
from mammo_sae.stores.tables import write_table

COLUMNS = ("kind", "architecture", "source", "sha256", "licence", "forbids", "data")


def run(*, descriptions: Mapping[str, Path], output: Path) -> None:
    """Write a table, one row per encoder: its name and the `COLUMNS` of its description.

    Parameters
    ----------
    descriptions
        ``encoder.json`` of each encoder, by the encoder's name.
    output
        The table to write (.csv).

    Raises
    ------
    InputError
        If a description is missing or damaged. The message names it.
    """
    rows = []
    for encoder, path in descriptions.items():
        described = read_description(path)
        rows.append(
            {"encoder": encoder} | {column: getattr(described, column) for column in COLUMNS}
        )
    write_table(pd.DataFrame(rows), output)
