"""The tables of a run, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from mammo_sae.errors import InputError
from mammo_sae.stores.tables import read_table


class Tables(Mapping[str, pd.DataFrame]):
    """The tables in a folder, by name.

    A table is read anew at each access, from Parquet, or from CSV if it has no Parquet file. A
    Parquet table is compared with its checksum.

    Parameters
    ----------
    folder
        The folder `tables` of a run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> pd.DataFrame:
        """Return a table.

        Raises
        ------
        InputError
            If the run has no such table. The message lists the tables that it has.
        """
        for suffix in (".parquet", ".csv"):
            path = self._folder / f"{name}{suffix}"
            if name in self and path.is_file():
                return read_table(path)
        there = ", ".join(self) or "none"
        raise InputError(f"{self._folder} has no table {name!r}; there are {there}")

    def __contains__(self, name: object) -> bool:
        return name in set(self)

    def __iter__(self) -> Iterator[str]:
        found = {path.stem for end in ("parquet", "csv") for path in self._folder.glob(f"*.{end}")}
        return iter(sorted(found))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"Tables({', '.join(self)})"
