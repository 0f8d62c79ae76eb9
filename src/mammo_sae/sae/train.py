"""Step: train one SAE on one layer's embeddings of the training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import pandas as pd
import torch

from mammo_sae.compute.checkpoint import Checkpoint
from mammo_sae.compute.devices import fastest_device
from mammo_sae.errors import InputError
from mammo_sae.provenance import Provenance
from mammo_sae.sae.loader import MIB, Cells
from mammo_sae.sae.settings import SaeTraining
from mammo_sae.sae.trainer import Training, centre_and_scale, fit
from mammo_sae.sae.variants.base import Start
from mammo_sae.sae.variants.registry import trainee
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.publish import read_json, write_json
from mammo_sae.stores.tables import read_table, write_table

SPLIT = "training"
# Batches that a variant may look at before training.
SAMPLE_BATCHES = 8


def run(
    settings: SaeTraining,
    *,
    images: Path,
    embeddings: Sequence[Path],
    layer: str,
    weights: Path,
    description: Path,
    log: Path,
    provenance: Provenance | None = None,
) -> None:
    """Train an SAE and write its weights, training log and description, in this order.

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
        step's batch, centred), l0 (active latents per cell), dead_share, lr.

    Raises
    ------
    InputError
        If the embeddings are damaged, not finite or empty, k > h, or training diverges.

    Notes
    -----
    A run that was killed goes on from `checkpoint.pt` beside the description, at most a minute
    back, and ends in the same bytes (on a CPU). The workflow does not know that file, so it
    outlives the removal of a failed job's outputs.
    """
    reader = EmbeddingReader(embeddings, layer, split_ids(images, SPLIT))
    device = fastest_device()
    cells = Cells(reader, settings.batch, settings.seed, settings.buffer * MIB, device)
    mean, scale = centre_and_scale(cells.sample())
    mean = mean.to(device)
    sample = torch.cat(list(islice(cells.batches(), SAMPLE_BATCHES))).sub_(mean).mul_(scale)
    training = Training(settings, trainee(settings, Start(sample, scale)))
    checkpoint = Checkpoint(
        description.with_name("checkpoint.pt"),
        [settings, layer, reader.image_ids, *map(read_json, embeddings), provenance],
        device,
    )
    if (state := checkpoint.load()) is not None:
        training.restore(state)
    fit(
        training,
        cells.batches(training.step),
        mean,
        scale,
        label=f"SAE {layer} seed {settings.seed}",
        save=lambda: checkpoint.save(training.state()),
    )
    sae = replace(
        training.trainee.folded(mean, scale),
        description={
            "grid": asdict(reader.grid),
            "training": settings.model_dump(mode="json"),
            "cells": cells.count,
            "scale": scale,
        },
    )
    if description.parent != weights.parent:
        raise InputError(f"{description} and {weights} must lie in one folder")
    description.unlink(missing_ok=True)
    write_table(pd.DataFrame(training.log), log)
    if provenance is not None:
        write_json(description.with_name("provenance.json"), provenance.model_dump(mode="json"))
    sae.save(weights, description)
    checkpoint.remove()


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
