"""Tables as Parquet (for programs) and CSV (for people)."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from mammo_sae.errors import InputError, first_line
from mammo_sae.stores.checksums import BLANK, PARQUET_KEY, check_parquet, seal_parquet
from mammo_sae.stores.publish import atomic_file


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write `frame` without its index, atomically, as .parquet or .csv by the suffix of `path`.

    A Parquet file contains its own checksum, which `read_table` compares.
    """
    with atomic_file(path) as aside:
        if path.suffix == ".parquet":
            table = pa.Table.from_pandas(frame, preserve_index=False)
            metadata = {**(table.schema.metadata or {}), PARQUET_KEY: BLANK}
            parquet.write_table(table.replace_schema_metadata(metadata), aside, compression="zstd")
            seal_parquet(aside)
        elif path.suffix == ".csv":
            frame.to_csv(aside, index=False, lineterminator="\n")
        else:
            raise ValueError(f"{path}: a table is .parquet or .csv")


def read_columns(path: Path) -> list[str]:
    """Return the names of a .parquet or .csv table's columns, without reading its rows."""
    if path.suffix == ".csv":
        return list(pd.read_csv(path, nrows=0).columns)
    return list(parquet.read_schema(path).names)


def read_table(path: Path) -> pd.DataFrame:
    """Read a .parquet or .csv table.

    Raises
    ------
    InputError, StoreError
        If the file is missing or unreadable, or is a Parquet file that was changed after it was
        written. The message names the file.
    """
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path)
        content = path.read_bytes()
        check_parquet(content, path)
        return pd.read_parquet(io.BytesIO(content))
    except FileNotFoundError:
        raise InputError(f"table {path} is missing; run the step that makes it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"table {path} can't be read ({first_line(error)}); rebuild it") from None
