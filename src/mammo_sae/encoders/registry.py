"""Step: write the registry of encoders: source of the weights and their terms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mammo_sae.encoders.description import read_description
from mammo_sae.stores.tables import write_table

COLUMNS = ("kind", "architecture", "source", "sha256", "licence", "forbids", "data")


def run(*, descriptions: Sequence[Path], output: Path) -> list[Path]:
    """List the encoders: where their weights come from, licence, pretraining data.

    Parameters
    ----------
    descriptions
        ``encoder.json`` of each encoder, in a folder with the encoder's name.
    output
        The table to write (.csv).

    Raises
    ------
    InputError
        If a description is missing or damaged. The message names it.
    """
    rows = []
    for path in descriptions:
        described = read_description(path)
        rows.append(
            {"encoder": path.parent.name}
            | {column: getattr(described, column) for column in COLUMNS}
        )
    write_table(pd.DataFrame(rows), output)
    return [output]
