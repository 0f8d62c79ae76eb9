"""Step: encode all images of one layer with one SAE and pool the codes of each image."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mammo_sae.compute.devices import fastest_device, in_parts
from mammo_sae.ordered import in_order
from mammo_sae.progress import progress
from mammo_sae.sae.high_norm import LIMIT, short_cells
from mammo_sae.sae.loader import check_finite
from mammo_sae.sae.model import SparseAutoencoder, check_channels
from mammo_sae.sae.training_cells import breast_cells
from mammo_sae.stores.codes import create_codes_store
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.images import ImageReader

CELLS_PER_BATCH = 8192

# Positions of images, index and value of their codes, the pooled codes, and the cells that are not
# above the SAE's limit.
Encoded = tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray | None]


def run(
    *,
    sae: Path,
    embeddings: Sequence[Path],
    image_stores: Sequence[Path],
    layer: str,
    store: Path,
    manifest: Path,
) -> list[Path]:
    """Encode every cell of every image with a trained SAE.

    Parameters
    ----------
    sae
        Description (`sae.json`) of the SAE.
    embeddings
        Manifests of the embedding stores, one per shard.
    image_stores
        Manifests of the image stores. Their masks say which cells the breast touches.
    layer
        Layer whose cells are encoded.
    store, manifest
        The codes store and its manifest.

    Raises
    ------
    InputError
        If the channels of SAE and embeddings differ, or an embedding is not finite.
    """
    model = SparseAutoencoder.load(sae).to(fastest_device())
    reader = EmbeddingReader(embeddings, layer)
    check_channels(model, reader.grid, sae)
    grid = reader.grid
    masks = ImageReader(image_stores)
    images = max(1, CELLS_PER_BATCH // (grid.rows * grid.columns))
    count = sum(-(-len(block[-1]) // images) for block in reader.blocks)
    encode = model.encoder()

    def encoded(batch: tuple[np.ndarray, np.ndarray]) -> list[Encoded]:
        positions, cells = batch
        check_finite(cells, positions, reader)
        # The masks of a batch: those of all cells of a cohort would grow with images times cells.
        ids = [reader.image_ids[i] for i in positions]
        breast = torch.from_numpy(breast_cells(masks, ids, grid))
        return in_parts(
            lambda some: encoded_at_once(positions[some], cells[some], breast[some]), len(positions)
        )

    def encoded_at_once(positions: np.ndarray, cells: np.ndarray, breast: Tensor) -> Encoded:
        flat = torch.from_numpy(cells.reshape(-1, model.channels)).to(model.device)
        index, value = encode(flat)
        short = short_cells(cells, model.description)
        counted = None if short is None else torch.from_numpy(short).to(model.device)
        pooled = pool(index, value, breast.to(model.device), model.latents, counted)
        shape = (len(positions), grid.rows, grid.columns, index.shape[1])
        return (
            positions,
            index.cpu().numpy().reshape(shape),
            value.cpu().numpy().reshape(shape),
            pooled,
            None if short is None else short.reshape(shape[:3]),
        )

    with (
        create_codes_store(
            store,
            manifest,
            image_ids=reader.image_ids,
            grid=grid,
            latents=model.latents,
            k=model.k,
            limited=model.description.get(LIMIT) is not None,
        ) as writer,
        ThreadPoolExecutor(1) as other,  # encodes the next batch while this one is written
    ):
        batches = in_order(other, encoded, reader.batches(images), ahead=1)
        for batch in progress(batches, label=f"codes {layer}", total=count):
            for part in batch:
                writer.write(*part)
    return [manifest]


def pool(
    index: Tensor, value: Tensor, inside: Tensor, latents: int, short: Tensor | None = None
) -> dict[str, np.ndarray]:
    """Pool the codes of every image, over all cells and over the cells that the breast touches.

    The mean and the share of active cells cover all cells, because logits and L0 are means over all
    cells. The other values leave out the cells above the SAE's limit.

    Parameters
    ----------
    index, value : [n * cells, m]
        Codes of n images: indices of latents and their values, m slots a cell.
    inside : [n, cells] bool
        Cells that the breast touches.
    short : [n, cells] bool
        Cells that are not above the SAE's limit (`mammo_sae.sae.high_norm`). None: no limit.

    Returns
    -------
    dict
        float32 [n, latents] for each name in `mammo_sae.stores.codes.POOLED`.
    """
    images, per_image = inside.shape
    size = images * latents
    image = torch.arange(images, device=index.device)[:, None]
    # Count each code once, in the group of cells outside or inside the breast, or above the limit.
    groups, group = 2, inside.long()
    if short is not None:
        groups, group = 3, group.masked_fill(~short, 2)
        inside = inside & short
    place = (group * size + image * latents).flatten()
    target = (place.unsqueeze(1) + index).flatten()
    flat = value.flatten()
    shape = (groups, images, latents)
    total = torch.bincount(target, flat.double(), groups * size).view(shape)
    firing = torch.bincount(target[flat > 0], minlength=groups * size).view(shape)
    highest = flat.new_zeros(groups * size).scatter_reduce_(0, target, flat, "amax").view(shape)
    touched = inside.sum(dim=1, keepdim=True).clamp(min=1)
    pooled = {
        "mean": total.sum(0) / per_image,
        "max": highest[:2].amax(0),
        "active": firing.sum(0) / per_image,
        "mean_breast": total[1] / touched,
        "max_breast": highest[1],
        "active_breast": firing[1] / touched,
    }
    return {name: values.float().cpu().numpy() for name, values in pooled.items()}
