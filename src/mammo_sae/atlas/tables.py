"""The tables of a run, by name, and the rows of one SAE, latent or concept in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_sae.analysis.cases import IDENTITY, Identity
from mammo_sae.errors import InputError
from mammo_sae.stores.tables import read_table

NEEDED = ("latents", "verdicts", "confounds", "alignment", "sae_quality", "encoders")


@dataclass(frozen=True)
class Tables:
    """The tables of a run. A table that the run does not have is empty and has no columns."""

    frames: Mapping[str, pd.DataFrame]
    parts: dict[str, dict[tuple[Any, ...], pd.DataFrame]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> pd.DataFrame:
        return self.frames.get(name, pd.DataFrame())

    def __contains__(self, name: object) -> bool:
        return name in self.frames

    def of(self, name: str, identity: Identity) -> pd.DataFrame:
        """Return the rows of the table `name` that belong to an SAE. The index starts at 0."""
        if name not in self.parts:
            table = self[name]
            groups = table.groupby([*IDENTITY], sort=False) if len(table) else ()
            self.parts[name] = {
                key: rows.reset_index(drop=True).drop(columns=[*IDENTITY]) for key, rows in groups
            }
        key = (identity.encoder, identity.layer, identity.sae, identity.seed)
        return self.parts[name].get(key, self[name].head(0))

    def saes(self) -> list[Identity]:
        """Return the SAEs of the table `latents`, in its order: trained ones before controls."""
        rows = self["latents"][[*IDENTITY]].drop_duplicates()
        return [Identity(*row) for row in rows.itertuples(index=False, name=None)]

    def concepts(self) -> list[str]:
        """Return the concepts of the table `latents`, in its order."""
        return [str(name) for name in self["latents"]["concept"].unique()]


def read_tables(files: Sequence[Path]) -> Tables:
    """Read tables. The name of a table is that of its file, without the suffix.

    Raises
    ------
    InputError
        If a file is damaged, or a table that every run has is not among them.
    """
    frames = {path.stem: read_table(path) for path in files}
    for name in NEEDED:
        if name not in frames:
            raise InputError(f"the atlas needs the table {name}; give its file to --tables")
    return Tables(frames)


def by_latent(rows: pd.DataFrame) -> dict[int, list[dict[str, Any]]]:
    """Return latent -> its rows as dictionaries, in the order of the table."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows.to_dict("records"):
        found.setdefault(int(row["latent"]), []).append(row)
    return found
