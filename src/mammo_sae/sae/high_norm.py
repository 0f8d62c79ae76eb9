"""Cells whose embedding is much longer than that of other cells, which an SAE may leave out.

Vision transformers that were trained without registers use a few patches, mostly of the background,
to store what they know of the whole image. The embeddings of these patches are several times as
long as those of others, and say nothing of their place (Darcet et al. 2024, arXiv 2309.16588). They
take a large share of the variance, and therefore of an SAE's latents.

The limit is a multiple of the median norm of the training images' cells. It is part of the SAE's
description, in the units of the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mammo_sae.errors import InputError
from mammo_sae.stores.embeddings import EmbeddingReader

LIMIT = "norm_limit"  # key of an SAE's description


def norms(cells: np.ndarray) -> np.ndarray:
    """Return float32 [n, R * C], the Euclidean norms of cells [n, R, C, d]."""
    flat = cells.reshape(len(cells), -1, cells.shape[-1]).astype(np.float32, copy=False)
    return np.sqrt(np.einsum("ncd,ncd->nc", flat, flat))


def all_norms(reader: EmbeddingReader) -> np.ndarray:
    """Return float32 [n, R * C], the norms of all cells of a reader, in one pass."""
    grid = reader.grid
    found = np.empty((len(reader), grid.rows * grid.columns), dtype=np.float32)
    for positions, cells in reader.batches(16):
        found[positions] = norms(cells)
    return found


def norm_limit(found: np.ndarray, multiple: float, layer: str) -> float:
    """Return `multiple` times the median of the norms `found` of a layer.

    Raises
    ------
    InputError
        If the median is 0 or not finite, so that it is no measure of a usual norm.
    """
    median = float(np.median(found))
    if not 0 < median < np.inf:
        raise InputError(
            f"layer {layer}: the median norm of the cells is {median:g}, so high_norm has no "
            "meaning; set high_norm to null"
        )
    return multiple * median


def short_cells(cells: np.ndarray, description: Mapping[str, Any]) -> np.ndarray | None:
    """Return bool [n, R * C]: True for cells [n, R, C, d] up to the limit of an SAE's description.

    None if the SAE has no limit.
    """
    limit = description.get(LIMIT)
    return None if limit is None else norms(cells) <= limit
