"""Step: the codes of one SAE over all images of one layer, and their pooling per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mammo_sae.compute.devices import fastest_device
from mammo_sae.progress import progress
from mammo_sae.provenance import Provenance
from mammo_sae.sae.loader import check_finite
from mammo_sae.sae.model import SparseAutoencoder, check_channels
from mammo_sae.stores.codes import create_codes_store
from mammo_sae.stores.embeddings import EmbeddingReader

CELLS_PER_BATCH = 8192


def run(
    *,
    sae: Path,
    embeddings: Sequence[Path],
    layer: str,
    store: Path,
    manifest: Path,
    provenance: Provenance | None = None,
) -> None:
    """Encode every cell once and write the codes store (see `mammo_sae.stores.codes`).

    Parameters
    ----------
    sae
        Description (`sae.json`) of the SAE.
    embeddings
        Manifests of the embedding stores, one per shard.
    store, manifest
        The codes store and its manifest.

    Raises
    ------
    InputError
        If SAE and embeddings don't fit or an embedding is not finite.
    """
    model = SparseAutoencoder.load(sae).to(fastest_device())
    reader = EmbeddingReader(embeddings, layer)
    check_channels(model, reader.grid, sae)
    grid = reader.grid
    encode = model.encoder()
    images = max(1, CELLS_PER_BATCH // (grid.rows * grid.columns))
    count = sum(-(-len(block[-1]) // images) for block in reader.blocks)
    with create_codes_store(
        store,
        manifest,
        image_ids=reader.image_ids,
        grid=grid,
        latents=model.latents,
        k=model.slots,
        provenance=provenance,
    ) as writer:
        batches = reader.batches(images)
        for positions, cells in progress(batches, label=f"codes {layer}", total=count):
            check_finite(cells, positions, reader)
            flat = torch.from_numpy(cells.reshape(-1, model.channels)).to(model.device)
            index, value = encode(flat)
            pooled = pool(index, value, len(positions), model.latents)
            shape = (len(positions), grid.rows, grid.columns, model.slots)
            writer.write(
                positions,
                index=index.cpu().numpy().reshape(shape),
                value=value.cpu().numpy().reshape(shape),
                **pooled,
            )


def pool(index: Tensor, value: Tensor, images: int, latents: int) -> dict[str, np.ndarray]:
    """Pool codes index, value [n, slots] of n / images cells each over every image.

    Returns
    -------
    dict
        `mean`, `max` and `active` (share of cells above 0), each float32 [images, latents].
    """
    per_image = len(index) // images
    image = torch.arange(images, device=index.device).repeat_interleave(per_image)
    target = (image.unsqueeze(1) * latents + index).flatten()
    flat = value.flatten()
    size = images * latents
    highest = flat.new_zeros(size).scatter_reduce_(0, target, flat, "amax")
    pooled = {
        "mean": torch.bincount(target, flat.double(), size) / per_image,
        "max": highest,
        "active": torch.bincount(target, (flat > 0).double(), size) / per_image,
    }
    return {
        name: values.float().view(images, latents).cpu().numpy() for name, values in pooled.items()
    }
