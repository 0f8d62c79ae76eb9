"""Tables as Parquet (for programs) and CSV (for people)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mammo_sae.errors import InputError
from mammo_sae.stores.publish import atomic_file


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write `frame` without its index, atomically; the suffix (.parquet or .csv) says how."""
    with atomic_file(path) as aside:
        if path.suffix == ".parquet":
            frame.to_parquet(aside, index=False, engine="pyarrow", compression="zstd")
        elif path.suffix == ".csv":
            frame.to_csv(aside, index=False, lineterminator="\n")
        else:
            raise ValueError(f"{path}: a table is .parquet or .csv")


def read_table(path: Path) -> pd.DataFrame:
    """Read a .parquet or .csv table.

    Raises
    ------
    InputError
        If the file is missing or unreadable, naming it.
    """
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"table {path} is missing; run the step that makes it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"table {path} can't be read ({error}); rebuild it") from None
