"""Step: train one SAE on one layer's embeddings of the training images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mammo_sae.compute.checkpoint import Checkpoint
from mammo_sae.compute.devices import fastest_device
from mammo_sae.errors import InputError
from mammo_sae.provenance import Provenance, record_path
from mammo_sae.sae import high_norm
from mammo_sae.sae.loader import MIB, Cells
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.score import row_without_steps
from mammo_sae.sae.trainer import Training, centre_and_scale, fit
from mammo_sae.sae.training_cells import kept_cells
from mammo_sae.sae.variants.base import Start
from mammo_sae.sae.variants.choice import (
    computed_sae,
    is_raw,
    takes_steps,
    training_sae,
    variant_module,
)
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.publish import read_json
from mammo_sae.stores.splits import TRAINING, split_reader
from mammo_sae.stores.tables import write_table

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining

# Number of cells that a variant uses for its initial weights and for resampling dead latents.
SAMPLE_CELLS = 20_000
CHECKPOINT = "checkpoint.pt"
FINISHED = "finished"  # key of a checkpoint's state that holds a trained SAE
# Largest number of bytes for weights, gradients and Adam's moments of all SAEs of one pass.
TOGETHER_BYTES = 4 << 30

# An SAE and the rows of its training log.
Trained = tuple[SparseAutoencoder, list[dict[str, float]]]


def run(
    settings: SaeTraining,
    *,
    splits: Path,
    embeddings: Sequence[Path],
    layer: str,
    weights: Path,
    description: Path,
    history: Path,
    image_stores: Sequence[Path] = (),
    beside: Mapping[Path, SaeTraining] | None = None,
    made_by: Callable[[SaeTraining], Provenance | None] = lambda _: None,
) -> list[Path]:
    """Train a sparse autoencoder on one layer's cells of the training split.

    Parameters
    ----------
    splits
        Table with image_id and split: the cohort's images, or only their splits. Training uses the
        images of the split `training`.
    embeddings
        Manifests of the embedding stores, one per shard.
    layer
        Layer whose cells are decomposed.
    weights, description
        `sae.safetensors` and `sae.json`, in one folder (see `mammo_sae.sae.model`).
    history
        Table with one row per hundredth of the run: step, loss, error (the loss without its
        penalties), explained_variance (of the step's batch, centred), l0 (active latents per cell),
        dead_share, lr. An SAE that takes no steps has one row, with step 0: a published SAE is
        scored on some training images, a computed one on the sampled cells.
    image_stores
        Manifests of the image stores. Required if `settings.background` is below 1.
    beside
        Other SAEs of the layer, by the path of their description. SAEs that use the same cells and
        have no result yet are trained in the same pass. They are left as finished checkpoints, from
        which their own runs only write the results. They do not change this SAE. An SAE that takes
        no steps is left to its own run, which trains no other.
    made_by
        Function that returns the provenance of an SAE trained with given settings on these inputs.

    Raises
    ------
    InputError
        If the embeddings are damaged, not finite or empty, if training diverges, if a computed SAE
        has fewer latents than active latents, or if published weights are missing, do not match
        their checksum, or have another number of channels.

    Notes
    -----
    A run that was killed resumes from `checkpoint.pt` next to the description, which is at most a
    minute old. On a CPU the resumed run gives the same bytes. The workflow does not track the
    checkpoint, so Snakemake keeps it when it removes a failed job's outputs.
    """
    if description.parent != weights.parent:
        raise InputError(f"{description} and {weights} must lie in one folder")
    reader = split_reader(embeddings, layer, splits, TRAINING)
    if settings.images is not None and settings.images < len(reader):
        drawn = np.random.default_rng(3).choice(len(reader), settings.images, replace=False)
        reader = EmbeddingReader(embeddings, layer, [reader.image_ids[i] for i in np.sort(drawn)])
    inputs = [read_json(manifest) for manifest in (*embeddings, *image_stores)]

    def member(path: Path, own: SaeTraining) -> Member:
        provenance = made_by(own)
        code = provenance and provenance.code
        # The number of threads decides the bytes.
        identity = [own, layer, reader.image_ids, *inputs, code, torch.get_num_threads()]
        kept = Checkpoint(path.with_name(CHECKPOINT), identity, fastest_device())
        return Member(path, own, provenance, kept)

    first = member(description, settings)
    if settings.variant.name == "published":
        published = import_module(variant_module("published"))
        sae, rows = published.taken(settings.variant, reader)
        _, limit = _limit(settings, reader)
        sae = replace(sae, description={**sae.description, **limit})
    elif not takes_steps(settings):
        sae, rows = _computed(settings, reader, image_stores)
    else:
        others = [
            member(path, own) for path, own in (beside or {}).items() if _same_cells(own, settings)
        ]
        sae, rows = _trained([first, *_affordable(first, others, reader)], reader, image_stores)
    description.unlink(missing_ok=True)
    write_table(pd.DataFrame(rows), history)
    about = {"grid": asdict(reader.grid), "training": settings.model_dump(mode="json")}
    replace(sae, description={**about, **sae.description}).save(weights, description)
    first.checkpoint.remove()
    return [description, weights, history]


@dataclass(frozen=True)
class Member:
    """One SAE of a pass: its paths, its settings, the provenance of its run, its checkpoint."""

    description: Path
    settings: SaeTraining
    provenance: Provenance | None
    checkpoint: Checkpoint

    def is_there(self) -> bool:
        """Return whether the SAE's own run has written its result already."""
        record = record_path(self.description)
        if self.provenance is None or not (self.description.is_file() and record.is_file()):
            return False
        return self.provenance.is_of(read_json(record))


def _same_cells(one: SaeTraining, other: SaeTraining) -> bool:
    """Return whether one pass over the store can train both SAEs."""
    same = all(
        getattr(one, name) == getattr(other, name)
        for name in ("background", "cells_per_image", "high_norm", "images", "buffer")
    )
    return same and one.variant.name != "published" and takes_steps(one)


def _affordable(first: Member, others: Sequence[Member], reader: EmbeddingReader) -> list[Member]:
    """Return the SAEs of `others` without a result, as many as fit beside `first` into memory."""
    taken: list[Member] = []
    total = _bytes(first.settings, reader)
    for member in others:
        if member.is_there():
            continue
        total += _bytes(member.settings, reader)
        if total > TOGETHER_BYTES:
            break
        taken.append(member)
    return taken


def _bytes(settings: SaeTraining, reader: EmbeddingReader) -> int:
    """Return the bytes that an SAE needs in training: two matrices, their gradients and moments."""
    return 2 * 4 * 4 * settings.latents * reader.grid.channels


def _trained(
    members: Sequence[Member], reader: EmbeddingReader, image_stores: Sequence[Path]
) -> Trained:
    """Train the SAEs of `members`, each from its checkpoint if there is one; return the first SAE.

    The other SAEs are left in their checkpoints. If the checkpoint of the first SAE is finished, no
    cell is read.
    """
    first, *others = members
    own = first.checkpoint.load()
    if own is not None and FINISHED in own:
        return _from_state(own[FINISHED])
    states = [own, *(member.checkpoint.load() for member in others)]
    settings = first.settings
    cells, limit = _cells(settings, reader, image_stores)
    sample = cells.sample()
    centred = centre_and_scale(sample)
    trainings = []
    kept_at: dict[Training, Checkpoint] = {}
    for member, state in zip(members, states, strict=True):
        if state is not None and FINISHED in state:
            continue
        mean, start = _start(member.settings, sample, *centred)
        made = training_sae(member.settings, start)
        training = Training(member.settings, made, mean, start.scale)
        if state is not None:
            training.restore(state)
        trainings.append(training)
        kept_at[training] = member.checkpoint
    del sample

    def trained(training: Training) -> Trained:
        sae = training.sae.folded(training.mean, training.scale)
        description = {"cells": cells.count, "scale": training.scale, **limit}
        return replace(sae, description=description), training.log

    def save(training: Training) -> None:
        state = {FINISHED: _state(trained(training))} if training.done else training.state()
        kept_at[training].save(state)

    label = f"SAE {reader.grid.layer} seed {settings.seed}"
    if len(trainings) > 1:
        label += f" and {len(trainings) - 1} more"
    fit(trainings, cells, label, save)
    return trained(trainings[0])


def _computed(
    settings: SaeTraining, reader: EmbeddingReader, image_stores: Sequence[Path]
) -> Trained:
    """Compute an SAE that takes no steps; return it with its scores on the sampled cells.

    As in training, the scores are in scaled units.
    """
    cells, limit = _cells(settings, reader, image_stores)
    sample = cells.sample()
    mean, start = _start(settings, sample, *centre_and_scale(sample))
    del sample
    made = computed_sae(settings, start)
    row = row_without_steps(made.folded(torch.zeros_like(mean), 1.0), start.cells)
    description = {"cells": cells.count, "scale": start.scale, **limit}
    return replace(made.folded(mean, start.scale), description=description), [row]


def _cells(
    settings: SaeTraining, reader: EmbeddingReader, image_stores: Sequence[Path]
) -> tuple[Cells, dict[str, float]]:
    """Return the cells that training uses, and the entry of the description with their limit."""
    found, limit = _limit(settings, reader)
    short = None if found is None else found <= limit[high_norm.LIMIT]
    kept = kept_cells(reader, image_stores, settings.background, settings.cells_per_image, short)
    return Cells(reader, settings.buffer * MIB, fastest_device(), kept), limit


def _limit(
    settings: SaeTraining, reader: EmbeddingReader
) -> tuple[np.ndarray | None, dict[str, float]]:
    """Return the norms [n, R * C] of all cells, and the largest norm of a cell that is used."""
    if settings.high_norm is None:
        return None, {}
    found = high_norm.all_norms(reader)
    limit = high_norm.norm_limit(found, settings.high_norm, reader.grid.layer)
    return found, {high_norm.LIMIT: limit}


def _start(
    settings: SaeTraining, sample: Tensor, mean: Tensor, scale: float
) -> tuple[Tensor, Start]:
    """Return the mean [d] on the device and the data from which a variant computes its weights.

    The cells are drawn from `sample` [m, d] by the seed. A variant for raw embeddings has mean 0
    and scale 1.
    """
    device = fastest_device()
    random = torch.Generator().manual_seed(settings.seed)
    drawn = torch.randperm(len(sample), generator=random)[:SAMPLE_CELLS]
    if is_raw(settings):
        mean, scale = torch.zeros_like(mean), 1.0
    mean = mean.to(device)
    start = sample[drawn.to(sample.device)].to(device, torch.float32).sub_(mean).mul_(scale)
    return mean, Start(start, scale)


def _state(trained: Trained) -> dict[str, Any]:
    sae, log = trained
    return {"tensors": sae.tensors(), "k": sae.k, "description": sae.description, "log": log}


def _from_state(state: dict[str, Any]) -> Trained:
    return SparseAutoencoder(
        **state["tensors"], k=state["k"], description=state["description"]
    ), state["log"]
