"""Step: train one SAE on one layer's embeddings of the training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mammo_sae.compute.checkpoint import Checkpoint
from mammo_sae.compute.devices import fastest_device
from mammo_sae.errors import InputError
from mammo_sae.provenance import Provenance
from mammo_sae.sae.formats import read_published
from mammo_sae.sae.loader import MIB, Cells, check_finite
from mammo_sae.sae.model import SparseAutoencoder, check_channels
from mammo_sae.sae.selection import kept_cells
from mammo_sae.sae.settings import PublishedVariant, SaeTraining
from mammo_sae.sae.trainer import Training, centre_and_scale, fit
from mammo_sae.sae.variants.base import Start
from mammo_sae.sae.variants.registry import trainee
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.publish import read_json, write_json
from mammo_sae.stores.tables import read_table, write_table

SPLIT = "training"
# Cells that a variant may look at: to start from, and to resample dead latents from.
SAMPLE_CELLS = 20_000
CELLS_AT_ONCE = 4096


def run(
    settings: SaeTraining,
    *,
    images: Path,
    embeddings: Sequence[Path],
    layer: str,
    weights: Path,
    description: Path,
    log: Path,
    image_stores: Sequence[Path] = (),
    provenance: Provenance | None = None,
) -> None:
    """Train an SAE, or take a published one; write weights, training log and description.

    Parameters
    ----------
    images
        The cohort's image table; images of the split `training` are used.
    embeddings
        Manifests of the embedding stores, one per shard.
    layer
        Layer whose cells are decomposed.
    weights, description
        `sae.safetensors` and `sae.json`, side by side (see `mammo_sae.sae.model`).
    log
        Table with one row per hundredth of the run: step, loss, explained_variance (of that
        step's batch, centred), l0 (active latents per cell), dead_share, lr. Of a published SAE,
        one row: step 0, scored on some of the training images.
    image_stores
        Manifests of the image stores, needed if `settings.background` is below 1.

    Raises
    ------
    InputError
        If the embeddings are damaged, not finite or empty, training diverges, or published
        weights are missing, others than named, or of another width.

    Notes
    -----
    A run that was killed goes on from `checkpoint.pt` beside the description, at most a minute
    back, and ends in the same bytes (on a CPU). The workflow does not know that file, so it
    outlives the removal of a failed job's outputs.
    """
    if description.parent != weights.parent:
        raise InputError(f"{description} and {weights} must lie in one folder")
    reader = EmbeddingReader(embeddings, layer, split_ids(images, SPLIT))
    inputs = [read_json(manifest) for manifest in (*embeddings, *image_stores)]
    checkpoint = Checkpoint(
        description.with_name("checkpoint.pt"),
        [settings, layer, reader.image_ids, *inputs, provenance],
        fastest_device(),
    )
    if isinstance(settings.variant, PublishedVariant):
        sae, rows = _published(settings.variant, reader)
    else:
        sae, rows = _trained(settings, reader, image_stores, checkpoint)
    description.unlink(missing_ok=True)
    write_table(pd.DataFrame(rows), log)
    if provenance is not None:
        write_json(description.with_name("provenance.json"), provenance.model_dump(mode="json"))
    about = {"grid": asdict(reader.grid), "training": settings.model_dump(mode="json")}
    replace(sae, description={**about, **sae.description}).save(weights, description)
    checkpoint.remove()


def _trained(
    settings: SaeTraining,
    reader: EmbeddingReader,
    image_stores: Sequence[Path],
    checkpoint: Checkpoint,
) -> tuple[SparseAutoencoder, list[dict[str, float]]]:
    """Train an SAE, from `checkpoint` on if it has something; return it and the training log."""
    device = fastest_device()
    kept = kept_cells(
        reader, image_stores, settings.background, settings.cells_per_image, settings.seed
    )
    cells = Cells(reader, settings.batch, settings.seed, settings.buffer * MIB, device, kept)
    mean, scale = centre_and_scale(cells.sample())
    mean = mean.to(device)
    batches = islice(cells.batches(), -(-SAMPLE_CELLS // settings.batch))
    sample = torch.cat(list(batches))[:SAMPLE_CELLS].sub_(mean).mul_(scale)
    training = Training(settings, trainee(settings, Start(sample, scale)))
    if (state := checkpoint.load()) is not None:
        training.restore(state)
    fit(
        training,
        cells.batches(training.step),
        mean,
        scale,
        label=f"SAE {reader.grid.layer} seed {settings.seed}",
        save=lambda: checkpoint.save(training.state()),
    )
    sae = training.trainee.folded(mean, scale)
    return replace(sae, description={"cells": cells.count, "scale": scale}), training.log


def _published(
    settings: PublishedVariant, reader: EmbeddingReader
) -> tuple[SparseAutoencoder, list[dict[str, float]]]:
    """Read a published SAE; return it and how it does on some training images, as a log."""
    sae = read_published(settings)
    check_channels(sae, reader.grid, Path(settings.path))
    size = reader.grid.rows * reader.grid.columns
    count = min(len(reader), -(-SAMPLE_CELLS // size))
    positions = np.linspace(0, len(reader) - 1, count).round().astype(int)
    cells = reader.read(positions)
    check_finite(cells, positions, reader)
    x = torch.from_numpy(cells.reshape(-1, sae.channels)).float()
    encode, missed, used = sae.encoder(), 0.0, torch.zeros(sae.latents)
    for part in x.split(CELLS_AT_ONCE):
        index, value = encode(part)
        missed += float((part - sae.decode(index, value)).square().sum())
        used += torch.bincount(index[value > 0], minlength=sae.latents)
    row = {
        "step": 0,
        "loss": missed / x.numel(),
        "explained_variance": 1 - missed / float((x - x.mean(dim=0)).square().sum()),
        "l0": float(used.sum()) / len(x),
        "dead_share": float((used == 0).double().mean()),
        "lr": 0.0,
    }
    return sae, [row]


def split_ids(images: Path, split: str) -> list[str]:
    """Return the ids of the images of a split, in the table's order.

    Raises
    ------
    InputError
        If the table has none.
    """
    table = read_table(images)
    ids = table.loc[table["split"] == split, "image_id"].tolist()
    if not ids:
        have = ", ".join(sorted(table["split"].astype(str).unique()))
        raise InputError(f"{images} has no image of split {split!r}, only {have or 'none'}")
    return ids
