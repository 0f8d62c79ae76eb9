"""One vector per image: pooled features, and mean embeddings of any layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from mammo_sae.encoders.plans.plan import POOLED
from mammo_sae.regression.features import DenseRows
from mammo_sae.stores.embeddings import EmbeddingReader

IMAGES, CELLS = 1024, 1 << 16
"""Embeddings of at most so many images and cells are in memory at a time, or those of one image."""


def mean_embeddings(manifests: Sequence[Path], layer: str, image_ids: Sequence[str]) -> DenseRows:
    """Return [n, d]: the mean embedding over the cells of each of `image_ids`, in this order.

    An image may occur several times. At the layer `pooled` the means are the pooled features. What
    does not fit into memory lies in a temporary file.

    Raises
    ------
    StoreError
        If a store is damaged or has no such layer, or no store has an image.
    """
    rows_of: dict[str, list[int]] = {}
    for row, image in enumerate(image_ids):
        rows_of.setdefault(image, []).append(row)
    reader = EmbeddingReader(manifests, layer, list(rows_of))
    size = min(IMAGES, max(1, CELLS // (reader.grid.rows * reader.grid.columns)))
    order: list[int] = []

    def means() -> Iterator[np.ndarray]:
        for positions, batch in reader.batches(size):
            rows = [rows_of[reader.image_ids[position]] for position in positions]
            order.extend(chain.from_iterable(rows))
            values = batch.mean(axis=(1, 2), dtype=np.float32)
            yield np.repeat(values, [len(some) for some in rows], axis=0)

    return DenseRows(means(), order)


def read_pooled(
    manifests: Sequence[Path], image_ids: Sequence[str] | None = None
) -> tuple[list[str], np.ndarray]:
    """Return image ids and float32 features [n, d] of `image_ids`, or of all images, in memory.

    Raises
    ------
    StoreError
        If a store is damaged or has no pooled features, or no store has an image.
    """
    reader = EmbeddingReader(manifests, POOLED, image_ids)
    features = np.empty((len(reader), reader.grid.channels), dtype=np.float32)
    for positions, cells in reader.batches(1024):
        features[positions] = cells[:, 0, 0]
    return reader.image_ids, features
