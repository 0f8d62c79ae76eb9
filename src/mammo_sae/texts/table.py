"""A table of phrases with ready embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from mammo_sae.cohorts.rows import tidy
from mammo_sae.errors import InputError, first_line
from mammo_sae.texts.joint import Projection
from mammo_sae.weights.files import read_weights

if TYPE_CHECKING:
    from mammo_sae.texts.settings import TableText


def embed(source: TableText, phrases: Sequence[str]) -> tuple[np.ndarray, Projection | None]:
    """Return the vectors [V, d] of `phrases` in the table, and the projection of the images.

    Raises
    ------
    InputError
        If the table or the projection is missing or damaged, or the table lacks a phrase.
    """
    path = Path(source.path)
    table = _read(path)
    if "phrase" not in table:
        raise InputError(f"{path} has no column phrase; add it")
    if table["phrase"].isna().any():
        row = int(table["phrase"].isna().to_numpy().argmax()) + 1
        raise InputError(f"{path}: row {row} has no phrase; write it or delete the row")
    unnamed = [str(name) for name in table if str(name).startswith("Unnamed: ")]
    if unnamed:
        raise InputError(
            f"{path} has a column without a name, which would count as numbers of the vectors; "
            "delete it (pandas: to_csv(..., index=False))"
        )
    numbers = _numbers(table, path)
    place = pd.Index(table["phrase"].astype(str).map(tidy))
    if place.has_duplicates:
        twice = place[place.duplicated()][0]
        raise InputError(f"{path}: the phrase {twice!r} is there twice; delete one of them")
    rows = place.get_indexer(list(phrases))
    if (rows < 0).any():
        missing = phrases[int(np.flatnonzero(rows < 0)[0])]
        raise InputError(
            f"{path} has no vector for {missing!r} and {int((rows < 0).sum()) - 1} other phrases "
            "of the vocabulary; add them, or set text.vocabulary to a file of the phrases that it "
            "has"
        )
    return numbers[rows], _projection(source.projection, numbers.shape[1])


def _read(path: Path) -> pd.DataFrame:
    """Read a table that the user wrote, .parquet or .csv."""
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        # A phrase such as "none" or "NA" is a text.
        return pd.read_csv(path, dtype={"phrase": str}, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise InputError(
            f"table {path} can't be read ({first_line(error)}); write it as .parquet or .csv"
        ) from None


def _numbers(table: pd.DataFrame, path: Path) -> np.ndarray:
    """Return the vectors [rows, d] of a table."""
    try:
        if "vector" in table:
            values = np.stack([np.asarray(row, np.float32) for row in table["vector"]])
        else:
            values = table.drop(columns="phrase").to_numpy(np.float32)
    except (TypeError, ValueError):
        raise InputError(
            f"{path}: the vectors are not lists of equally many numbers; write one number per "
            "column (.csv), or one list per row in the column vector (.parquet)"
        ) from None
    if values.ndim != 2 or not values.shape[1] or not np.isfinite(values).all():
        raise InputError(f"{path}: the vectors are empty or not finite; compute them again")
    return values


def _projection(path: str | None, width: int) -> Projection | None:
    if path is None:
        return None
    content = read_weights(Path(path))
    weight = content.get("weight") if isinstance(content, dict) else None
    if not torch.is_tensor(weight) or weight.ndim != 2 or len(weight) != width:
        raise InputError(
            f"{path} has no tensor weight [{width}, features of the encoder]; save one with "
            "safetensors or torch.save"
        )
    bias = content.get("bias", torch.zeros(width))
    if not torch.is_tensor(bias) or bias.shape != (width,):
        raise InputError(f"{path}: bias is not of shape [{width}]; save it again")
    return Projection(weight.float().numpy(), bias.float().numpy())
