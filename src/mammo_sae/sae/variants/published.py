"""The variant `published`: a published SAE, used without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mammo_sae.sae.formats.published import read_published
from mammo_sae.sae.loader import check_finite
from mammo_sae.sae.model import SparseAutoencoder, check_channels
from mammo_sae.sae.score import row_without_steps
from mammo_sae.stores.embeddings import EmbeddingReader

if TYPE_CHECKING:
    from mammo_sae.sae.settings import PublishedVariant

SCORED_CELLS = 20_000


def taken(
    settings: PublishedVariant, reader: EmbeddingReader
) -> tuple[SparseAutoencoder, list[dict[str, float]]]:
    """Return a published SAE and a log with one row: the SAE's scores on some training images."""
    sae = read_published(settings)
    check_channels(sae, reader.grid, Path(settings.path))
    size = reader.grid.rows * reader.grid.columns
    count = min(len(reader), -(-SCORED_CELLS // size))
    positions = np.linspace(0, len(reader) - 1, count).round().astype(int)
    cells = reader.read(positions)
    check_finite(cells, positions, reader)
    x = torch.from_numpy(cells.reshape(-1, sae.channels)).float()
    return sae, [row_without_steps(sae, x)]
