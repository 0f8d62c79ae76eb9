"""Pooled features of a cohort, from the embeddings of the layer `pooled`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mammo_sae.encoders.plans.plan import POOLED
from mammo_sae.stores.embeddings import EmbeddingReader


def read_pooled(
    manifests: Sequence[Path], image_ids: Sequence[str] | None = None
) -> tuple[list[str], np.ndarray]:
    """Return image ids and float32 features [n, d] of `image_ids`, or of all images.

    A row has a few kilobytes, so a whole cohort fits into memory.

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
