"""Step: train an encoder further, with a linear head, on the concepts of the training split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from mammo_sae.encoders.architectures import find_layer, layer_names
from mammo_sae.encoders.devices import fastest_device, product_type
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.encoders.labels import concept_labels
from mammo_sae.encoders.network import Network, Pointwise, load_encoder, save_encoder, to_map
from mammo_sae.encoders.settings import FinetunedSettings, RecipeSettings
from mammo_sae.encoders.streaming import ahead
from mammo_sae.errors import InputError
from mammo_sae.progress import progress
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import read_table, write_table


def run(
    settings: FinetunedSettings,
    *,
    concepts: Sequence[str],
    cohort: Path,
    base: Path,
    stores: Sequence[Path],
    weights: Path,
    description: Path,
    head_weights: Path,
    head_description: Path,
    log: Path,
) -> None:
    """Fine-tune the encoder in `base`: one network, one logit per concept.

    The loss is binary cross-entropy, positives weighted by negatives / positives of the training
    split; images without a label for a concept do not count for it. BatchNorm stays folded, so
    its statistics are those of the pretraining.

    Parameters
    ----------
    settings
        Frozen part and recipe.
    concepts
        Columns of the cohort table, 0/1 or missing.
    cohort
        ``images.parquet``.
    base
        Directory of the encoder to start from.
    stores
        Manifests of the shards: of the base's embeddings at ``settings.freeze``, so that the
        frozen part is never run again, or of the images if nothing is frozen.
    weights, description, head_weights, head_description, log
        The files to write; the log is a CSV table, one row per epoch.

    Raises
    ------
    InputError
        If a concept can't be learnt from the training split, the base has no layer ``freeze``, or
        training diverges.
    """
    recipe = settings.recipe
    device = fastest_device()
    network = load_encoder(base)
    images, labels = concept_labels(read_table(cohort), "training", concepts, cohort)
    source: EmbeddingReader | ImageReader
    if settings.freeze is None:
        source = ImageReader(stores)
    else:
        source = _open_cached(stores, settings.freeze, network, images)
    trained = _unfreeze(network, settings.freeze)
    for module in network.modules():
        if isinstance(module, Pointwise):
            module.products = product_type(device)
    network.to(device).train()
    head = nn.Linear(find_layer(network.architecture, "pooled").channels, len(concepts))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    head.to(device)
    targets = torch.from_numpy(labels).to(device)
    positive_weight = _positive_weight(targets)
    steps = -(-len(images) // recipe.batch_size)
    optimiser = torch.optim.AdamW(
        [
            {"params": trained, "lr": recipe.lr},
            {"params": list(head.parameters()), "lr": recipe.head_lr},
        ],
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=[recipe.lr, recipe.head_lr],
        total_steps=recipe.epochs * steps,
        pct_start=recipe.warmup,
    )
    losses = np.zeros((recipe.epochs, steps))
    batches = ahead(_batches(source, images, recipe))
    for step, (chosen, batch) in progress(
        enumerate(batches), total=recipe.epochs * steps, label="fine-tune"
    ):
        batch = batch.to(device, non_blocking=True)
        x = network.normalise(batch) if settings.freeze is None else to_map(batch)
        pooled = network.forward_layers(x, ["pooled"], start=settings.freeze)["pooled"]
        loss = _loss(head(pooled.flatten(1)), targets[chosen], positive_weight)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        losses[divmod(step, steps)] = loss.item()
        if not np.isfinite(losses[divmod(step, steps)]):
            raise InputError(
                f"fine-tuning diverged at step {step} of {losses.size}; lower the recipe's lr"
            )
    details = network.description.model_copy(
        update={
            "kind": "finetuned",
            "cached": settings.freeze,
            "classifier": (),
            "data": f"{network.description.data}; then {', '.join(concepts)} on the "
            f"{len(images)} training images of the cohort",
        }
    )
    save_head(
        Head(*(p.detach().cpu().numpy() for p in head.parameters()), tuple(concepts)),
        head_weights,
        head_description,
    )
    write_table(
        pd.DataFrame({"epoch": np.arange(recipe.epochs) + 1, "loss": losses.mean(axis=1)}), log
    )
    save_encoder(network.state_dict(), details, weights, description)


def _open_cached(
    stores: Sequence[Path], freeze: str, network: Network, images: Sequence[str]
) -> EmbeddingReader:
    find_layer(network.architecture, freeze)
    reader = EmbeddingReader(stores, freeze, images)
    if reader.dtype != np.float16:
        raise InputError(
            f"layer {freeze} overflows float16, so its maps can't be cached for fine-tuning; "
            "freeze up to another layer, or null"
        )
    return reader


def _unfreeze(network: Network, freeze: str | None) -> list[nn.Parameter]:
    """Let the parameters after layer `freeze` be trained; return them."""
    names = layer_names(network.architecture)
    first = 0 if freeze is None else names.index(freeze) + 1
    parts = [*network.blocks, network.head][first:] + ([network.stem] if freeze is None else [])
    trained = [parameter for part in parts for parameter in part.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    if not trained:
        raise InputError(f"nothing is left to train after layer {freeze}; freeze fewer layers")
    return trained


def _batches(
    source: EmbeddingReader | ImageReader, images: Sequence[str], recipe: RecipeSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (rows of `images`, their pixels or maps), each epoch in a new order."""
    rng = np.random.default_rng(recipe.seed)
    if isinstance(source, EmbeddingReader):
        stored = {image: position for position, image in enumerate(source.image_ids)}
        position = np.array([stored[image] for image in images])
    for _ in range(recipe.epochs):
        order = rng.permutation(len(images))
        flips = rng.random(len(images)) < 0.5
        for start in range(0, len(images), recipe.batch_size):
            chosen = order[start : start + recipe.batch_size]
            if isinstance(source, EmbeddingReader):
                batch = source.read(position[chosen])
            else:
                batch = source.pixels([images[i] for i in chosen])
            if recipe.vertical_flip:
                flipped = flips[chosen]
                batch[flipped] = batch[flipped][:, ::-1]
            yield torch.from_numpy(chosen), torch.from_numpy(batch)


def _positive_weight(targets: Tensor) -> Tensor:
    """Return negatives / positives of each column of `targets` [n, c]; NaN entries don't count."""
    positives = (targets == 1).sum(0)
    return (targets == 0).sum(0) / positives


def _loss(logits: Tensor, targets: Tensor, positive_weight: Tensor) -> Tensor:
    """Binary cross-entropy averaged over the labelled entries of `targets` [b, c]."""
    labelled = ~targets.isnan()
    each = functional.binary_cross_entropy_with_logits(
        logits.float(), targets.nan_to_num(), pos_weight=positive_weight, reduction="none"
    )
    return (each * labelled).sum() / labelled.sum().clamp(min=1)
