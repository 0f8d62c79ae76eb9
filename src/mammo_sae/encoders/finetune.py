"""Step: fine-tune an encoder with a linear head on the concepts of the training split."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from mammo_sae.compute.checkpoint import Checkpoint
from mammo_sae.compute.devices import fastest_device, product_type
from mammo_sae.compute.ranks import Ranks, current_ranks
from mammo_sae.encoders import augmentation
from mammo_sae.encoders.architectures import find_layer
from mammo_sae.encoders.batches import Batch, network_input
from mammo_sae.encoders.heads import Head, load_head, save_head
from mammo_sae.encoders.labels import concept_labels
from mammo_sae.encoders.network import load_encoder, save_encoder
from mammo_sae.encoders.networks.network import Network
from mammo_sae.encoders.plans.plan import POOLED
from mammo_sae.errors import InputError
from mammo_sae.ordered import ahead
from mammo_sae.progress import progress
from mammo_sae.statistics import auroc
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.publish import read_json
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.encoders.description import EncoderDescription
    from mammo_sae.encoders.settings import FastRecipe, FinetunedSettings

SAVE_EVERY = 60.0  # seconds of training between two checkpoints


def run(
    settings: FinetunedSettings,
    *,
    concepts: Sequence[str],
    images: Path,
    base: Path,
    base_head: Path,
    embeddings: Sequence[Path] = (),
    image_stores: Sequence[Path] = (),
    weights: Path,
    description: Path,
    head_weights: Path,
    head_description: Path,
    history: Path,
) -> list[Path]:
    """Train an encoder and its head further on the concepts of the training split.

    The loss is binary cross-entropy. Positives have the weight negatives / positives of the
    training split. Images without a label for a concept do not count for this concept. BatchNorm
    stays folded, so its statistics are those of pretraining. The head starts as the base's head
    (linear probing, then fine-tuning: Kumar et al., arXiv 2202.10054).

    The learning rate rises and falls once a cycle. More cycles follow until each concept's AUROC
    over the training images is at least the recipe's ``learnt``. This AUROC uses the logits of each
    image's last forward pass in training.

    Parameters
    ----------
    settings
        Frozen part and recipe.
    concepts
        Columns of the cohort table; values are 0, 1 or missing.
    images
        ``images.parquet``.
    base
        Directory of the encoder from which training starts.
    base_head
        Directory of the base's head.
    embeddings
        Manifests of the base's embeddings at ``settings.freeze``, one per shard. They are read if a
        part is frozen, so that this part is not run again.
    image_stores
        Manifests of the image stores, one per shard. They are read if nothing is frozen.
    weights, description, head_weights, head_description, history
        The files to write. The history is a CSV table with one row per epoch: the mean loss and
        each concept's AUROC over the training images. Row 0 is the base with its head.

    Raises
    ------
    InputError
        If a concept has no positives or negatives in the training split, if the base has no layer
        ``freeze`` or its head lacks a concept, or if training diverges.

    Notes
    -----
    A run that was killed resumes from ``checkpoint.pt`` next to the description, which is at most a
    minute old. On a CPU with the same number of threads, the resumed run gives the same bytes.

    torchrun may start several ranks of this step. Each rank has its share of every batch, and all
    have the same weights. The first rank writes the files; the others return no files. Sums over a
    batch are then added in another order, so the result is equal except for rounding.
    """
    ranks = current_ranks()
    network = load_encoder(base)
    if settings.freeze is not None:
        find_layer(network.architecture, settings.freeze)
    stores = image_stores if settings.freeze is None else embeddings
    table = read_table(images)
    # The table also lists images that the conversion left out.
    table = table[table["image_id"].isin(_stored(stores, settings.freeze))]
    learnt, labels = concept_labels(table, "training", concepts, images)
    unseen: list[str] = []
    truth = np.zeros((0, len(concepts)), np.float32)
    if settings.recipe.patience is not None:
        unseen, truth = concept_labels(table, "validation", concepts, images)
    inputs = Inputs(stores, settings.freeze, list(dict.fromkeys([*learnt, *unseen])))
    start = _rows(load_head(base_head), concepts)
    training = Training(settings, network, start, labels, ranks)
    checkpoint = Checkpoint(
        description.with_name("checkpoint.pt"),
        [
            settings,
            list(concepts),
            [*learnt, *unseen],
            np.nan_to_num(np.concatenate([labels, truth]), nan=-1).tolist(),
            read_json(base / "encoder.json"),
            read_json(base_head / "head.json"),
            *map(read_json, stores),
        ],
        training.device,
    )
    if (state := _state_of_all(checkpoint, ranks)) is not None:
        training.restore(state)
    else:
        training.score_base(inputs, learnt)
    saved = time.monotonic()
    batches: Iterable[tuple[Tensor, Batch]]
    batches = ahead(_batches(inputs, learnt, settings.recipe, training.step, ranks), size=2)
    if ranks.first:
        batches = progress(batches, total=training.steps - training.step, label="fine-tune")
    for chosen, batch in batches:
        if training.finished:
            break
        training.advance(chosen, batch)
        if unseen and training.step % training.steps_per_epoch == 0:
            training.validate(inputs, unseen, truth)
        if ranks.first and training.between_steps and time.monotonic() - saved > SAVE_EVERY:
            checkpoint.save(training.state())
            saved = time.monotonic()
    training.take_best()
    if not ranks.first:
        return []
    if unlearnt := training.unlearnt():
        print(
            f"fine-tuning has not learnt {', '.join(unlearnt)}: the AUROC over the training images "
            f"is below {settings.recipe.learnt}, and later steps will explain a network that does "
            "not know the concept; raise the recipe's most_cycles or epochs, or change its rates",
            file=sys.stderr,
        )
    details = _described(network.description, settings, concepts, len(set(learnt)))
    weight, bias = (p.detach().cpu().numpy() for p in training.head.parameters())
    save_head(Head(weight, bias, tuple(concepts)), head_weights, head_description)
    write_table(training.log(), history)
    save_encoder(network.state_dict(), details, weights, description)
    checkpoint.remove()
    return [head_weights, head_description, history, weights, description]


def _state_of_all(checkpoint: Checkpoint, ranks: Ranks) -> dict[str, Any] | None:
    """Return the state from which all ranks resume, or None if training starts over.

    Raises
    ------
    InputError
        If a rank does not find the checkpoint that the first rank has found.
    """
    state = checkpoint.load() if ranks.first else None
    step = ranks.from_first(None if state is None else state["step"])
    if step is not None and not ranks.first:
        state = checkpoint.load()
        if state is None or state["step"] != step:
            raise InputError(
                f"rank {ranks.number} does not read the checkpoint of step {step} that the first "
                "rank has read; keep the results on a file system that all machines share"
            )
    return state


def _described(
    base: EncoderDescription, settings: FinetunedSettings, concepts: Sequence[str], images: int
) -> EncoderDescription:
    """Return the description of a network trained from `base` on `images` training images."""
    return base.model_copy(
        update={
            "kind": "finetuned",
            "cached": settings.freeze,
            "classifier": (),
            "data": f"{base.data}; then {', '.join(concepts)} on the {images} training images of "
            "the cohort",
        }
    )


class Training:
    """A network and its head in training.

    Parameters
    ----------
    settings
        Frozen part and recipe.
    network
        The network, trained in place.
    head
        Initial weight and bias, a row per concept.
    labels
        [n, c], labels of the training images: 0, 1, or NaN if unlabelled.
    ranks
        The processes that share every batch. All have the same weights after every step.

    Raises
    ------
    InputError
        If there are more ranks than images in a batch.
    """

    def __init__(
        self,
        settings: FinetunedSettings,
        network: Network,
        head: Head,
        labels: np.ndarray,
        ranks: Ranks,
    ) -> None:
        recipe = settings.recipe
        if ranks.count > recipe.batch_size:
            raise InputError(
                f"{ranks.count} ranks can't share batches of {recipe.batch_size} images; start "
                f"{recipe.batch_size} ranks or fewer"
            )
        self._ranks = ranks
        self.device = fastest_device()
        self.step = 0
        self.steps_per_epoch = -(-len(labels) // recipe.batch_size)
        self.steps = recipe.most_cycles * recipe.epochs * self.steps_per_epoch
        self.losses = np.zeros(self.steps)
        self.aurocs: list[float] = []
        self._concepts = head.concepts
        self._labels = labels
        # Logits [n, c] of the training images: the base's, then those of each image's last pass.
        self._seen = np.zeros(labels.shape, dtype=np.float32)
        # For each epoch, the base first: each concept's AUROC over the training images.
        self._learnt: list[list[float]] = []
        self._best: list[dict[str, Tensor]] = []
        self._settings = settings
        self._network = network
        trained = _unfreeze(network, settings.freeze)
        network.use_products(product_type(self.device))
        network.to(self.device).train()
        channels = find_layer(network.architecture, POOLED).channels
        self.head = nn.Linear(channels, labels.shape[1])
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(head.weight))
            self.head.bias.copy_(torch.from_numpy(head.bias))
        self.head.to(self.device)
        self._model = _Model(network, self.head, settings.freeze)
        self._shared = ranks.shared(self._model)
        self._targets = torch.from_numpy(labels).to(self.device)
        # NaN equals neither 0 nor 1, so unlabelled images do not count.
        self._positive_weight = (self._targets == 0).sum(0) / (self._targets == 1).sum(0)
        self._optimiser = torch.optim.AdamW(
            [
                {"params": trained, "lr": recipe.lr},
                {"params": list(self.head.parameters()), "lr": recipe.head_lr},
            ],
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._schedule = self._cycle()

    def score_base(self, inputs: Inputs, images: Sequence[str]) -> None:
        """Score the base's head on the training `images` before the first step."""
        self._seen = self._predict(inputs, images)
        self._learnt.append(self._training_aurocs())

    def advance(self, chosen: Tensor, batch: Batch) -> None:
        """Train on a batch.

        Parameters
        ----------
        chosen
            The batch's rows in the labels.
        batch
            Pixels or maps of this rank's share of the batch. If the share is empty, one image.
        """
        recipe = self._settings.recipe
        own, targets = self._ranks.share(len(chosen)), self._targets[chosen]
        cycle_ends = (self.step + 1) % (recipe.epochs * self.steps_per_epoch) == 0
        steps = (self.step + 1) % recipe.accumulate == 0 or cycle_ends
        with self._ranks.adding_gradients(self._shared, now=steps):
            # Every rank takes part in the sum of gradients. The image of an empty share is left
            # out here and has the gradient 0.
            logits = self._shared(batch.values, batch.prefix)[: own.stop - own.start]
            loss = _loss(logits, targets[own], self._positive_weight, _labelled(targets))
            # The ranks' gradients are averaged, and their sum is wanted.
            (self._ranks.count * loss / recipe.accumulate).backward()
        seen = torch.zeros_like(targets)
        seen[own] = logits.detach().float()
        seen = self._ranks.total(seen)
        self._seen[chosen.numpy()] = seen.cpu().numpy()
        whole = _loss(seen, targets, self._positive_weight, _labelled(targets))
        self.losses[self.step] = whole.item()
        if not np.isfinite(self.losses[self.step]):
            raise InputError(
                f"fine-tuning diverged at step {self.step} of {self.steps}; lower the recipe's lr "
                "or head_lr"
            )
        self.step += 1
        if steps:
            self._optimiser.step()
            self._optimiser.zero_grad()
            self._schedule.step()
        if self.step % self.steps_per_epoch == 0:
            self._learnt.append(self._training_aurocs())
        if cycle_ends and not self.finished:
            self._schedule = self._cycle()

    @property
    def between_steps(self) -> bool:
        """Whether no gradients of earlier batches wait for the next step of the optimiser."""
        return self.head.weight.grad is None

    def validate(self, inputs: Inputs, images: Sequence[str], truth: np.ndarray) -> None:
        """Score the finished epoch on images [n] with labels [n, c]; keep the best weights."""
        scores = self._predict(inputs, images)
        known = ~np.isnan(truth)
        aurocs = [auroc(s[k], t[k]) for s, t, k in zip(scores.T, truth.T, known.T, strict=True)]
        self.aurocs.append(float(np.mean(aurocs)))
        if self._best_epoch == len(self.aurocs) - 1:
            self._best = [
                {name: value.detach().clone() for name, value in part.state_dict().items()}
                for part in (self._network, self.head)
            ]

    @property
    def finished(self) -> bool:
        """Whether training ends here.

        Training ends in any of three cases: after the last cycle, after a cycle in which every
        concept was learnt, or if the last `patience` epochs were not better on the validation
        split than an earlier one.
        """
        recipe = self._settings.recipe
        worse = len(self.aurocs) - 1 - self._best_epoch
        if recipe.patience is not None and worse >= recipe.patience:
            return True
        at_end = self.step > 0 and self.step % (recipe.epochs * self.steps_per_epoch) == 0
        return self.step == self.steps or (at_end and not self.unlearnt())

    def unlearnt(self) -> list[str]:
        """Return the concepts whose AUROC over the training images is below `learnt`."""
        pairs = zip(self._concepts, self._learnt[-1], strict=True)
        return [concept for concept, now in pairs if now < self._settings.recipe.learnt]

    def take_best(self) -> None:
        """Restore the weights of the best epoch, if epochs were scored on the validation split."""
        for part, best in zip((self._network, self.head), self._best, strict=False):
            part.load_state_dict(best)

    def log(self) -> pd.DataFrame:
        """Return one row per epoch, the base as epoch 0: mean loss and AUROCs."""
        losses = self.losses[: self.step].reshape(-1, self.steps_per_epoch).mean(axis=1)
        table = pd.DataFrame({"epoch": np.arange(len(losses) + 1), "loss": [np.nan, *losses]})
        for concept, aurocs in zip(self._concepts, zip(*self._learnt, strict=True), strict=True):
            table[f"auroc_{concept}"] = aurocs
        return table.assign(validation_auroc=[np.nan, *self.aurocs]) if self.aurocs else table

    def state(self) -> dict[str, Any]:
        """Return everything that later steps depend on, between two steps of the optimiser."""
        return {
            "step": self.step,
            "aurocs": self.aurocs,
            "seen": torch.from_numpy(self._seen),
            "learnt": self._learnt,
            "best": self._best,
            "losses": torch.from_numpy(self.losses),
            "parts": [part.state_dict() for part in self._parts()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from `state`."""
        self.step = state["step"]
        self.aurocs = state["aurocs"]
        self._seen = state["seen"].cpu().numpy()
        self._learnt = state["learnt"]
        self._best = state["best"]
        self.losses = state["losses"].cpu().numpy()
        for part, kept in zip(self._parts(), state["parts"], strict=True):
            part.load_state_dict(kept)

    def _cycle(self) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the learning-rate schedule of a new cycle."""
        recipe = self._settings.recipe
        return torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser,
            max_lr=[recipe.lr, recipe.head_lr],
            total_steps=-(-recipe.epochs * self.steps_per_epoch // recipe.accumulate),
            pct_start=recipe.warmup,
        )

    def _predict(self, inputs: Inputs, images: Sequence[str]) -> np.ndarray:
        """Return the logits [n, c] of the unchanged `images` with the current weights."""
        size, ranks = self._settings.recipe.batch_size, self._ranks
        logits = torch.zeros((len(images), self._labels.shape[1]), device=self.device)
        self._network.eval()
        with torch.inference_mode():
            # The ranks take the batches in turn, so each batch is that of a single process.
            for start in range(0, len(images), size)[ranks.number :: ranks.count]:
                batch = slice(start, start + size)
                given = inputs.read(images[batch])
                logits[batch] = self._model(given.values, given.prefix).float()
        self._network.train()
        return ranks.total(logits).cpu().numpy()

    def _training_aurocs(self) -> list[float]:
        known = ~np.isnan(self._labels)
        return [
            float(auroc(scores[k], truth[k]))
            for scores, truth, k in zip(self._seen.T, self._labels.T, known.T, strict=True)
        ]

    @property
    def _best_epoch(self) -> int:
        return int(np.argmax(self.aurocs)) if self.aurocs else -1

    def _parts(self) -> list[Any]:
        return [self._network, self.head, self._optimiser, self._schedule]


class _Model(nn.Module):
    """A network and its head as one function, from pixels or maps of layer `start` to logits."""

    def __init__(self, network: Network, head: nn.Linear, start: str | None) -> None:
        super().__init__()
        self.network = network
        self.head = head
        self.start = start

    def forward(self, values: Tensor, prefix: Tensor | None) -> Tensor:
        """Return the logits [b, c] of values and prefix of a `Batch`."""
        x = network_input(self.network, values, prefix, self.start)
        pooled = self.network.forward_layers(x, [POOLED], start=self.start)[POOLED].cells
        return self.head(pooled.flatten(1))


def _rows(head: Head, concepts: Sequence[str]) -> Head:
    """Return the head's rows of `concepts`, in that order."""
    rows = [head.row(concept) for concept in concepts]
    return Head(head.weight[rows], head.bias[rows], tuple(concepts))


def _stored(stores: Sequence[Path], freeze: str | None) -> list[str]:
    return (ImageReader(stores) if freeze is None else EmbeddingReader(stores, freeze)).image_ids


class Inputs:
    """The network's inputs by image: pixels, or maps of the frozen layer."""

    def __init__(self, stores: Sequence[Path], freeze: str | None, images: Sequence[str]) -> None:
        self._images = ImageReader(stores) if freeze is None else None
        if freeze is not None:
            self._maps = EmbeddingReader(stores, freeze, images)
            if self._maps.dtype != np.float16:
                raise InputError(
                    f"layer {freeze} overflows float16, so its maps can't be cached for "
                    "fine-tuning; set freeze to another layer or to null"
                )
            self._position = {image: i for i, image in enumerate(self._maps.image_ids)}

    def read(self, images: Sequence[str]) -> Batch:
        """Return the pixels of `images`, or their maps in float16."""
        if self._images is not None:
            return Batch.of(self._images.pixels(images))
        places = [self._position[image] for image in images]
        return Batch.of(self._maps.read(places), self._maps.prefix(places))


def _unfreeze(network: Network, freeze: str | None) -> list[nn.Parameter]:
    """Make the parameters after layer `freeze` trainable; return them."""
    parts = network.parts_after(freeze)
    trained = [parameter for part in parts for parameter in part.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    if not trained:
        raise InputError(f"nothing is left to train after layer {freeze}; freeze fewer layers")
    return trained


def _batches(
    inputs: Inputs, images: Sequence[str], recipe: FastRecipe, done: int, ranks: Ranks
) -> Iterator[tuple[Tensor, Batch]]:
    """Yield the batches after the first `done`: rows of `images`, and the pixels or maps to read.

    Only this rank's share of the batch is read, or one image if the share is empty. Order and
    augmentation of an image depend only on the seed and on the numbers of epoch, batch and image,
    so a run can resume at any batch with any number of ranks.
    """
    per_epoch = -(-len(images) // recipe.batch_size)
    for number in range(done, recipe.most_cycles * recipe.epochs * per_epoch):
        epoch, place = divmod(number, per_epoch)
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(images))
        chosen = order[place * recipe.batch_size : (place + 1) * recipe.batch_size]
        places = range(len(chosen))[ranks.share(len(chosen))] or range(1)
        own = slice(places.start, places.stop)
        batch = inputs.read([images[i] for i in chosen[own]])
        rng = np.random.default_rng([recipe.seed, epoch, place])
        values = batch.values
        if recipe.augmentation == "vertical_flip":
            flipped = torch.from_numpy(rng.random(len(chosen)) < 0.5)[own]
            values[flipped] = values[flipped].flip(1)
        elif recipe.augmentation == "mammo_clip":
            values = augmentation.mammo_clip(values, rng.spawn(len(chosen))[own])
        elif recipe.augmentation == "mammo_clip_published":
            values = augmentation.published_mammo_clip(values, rng.spawn(len(chosen))[own])
        yield torch.from_numpy(chosen), replace(batch, values=values)


def _labelled(targets: Tensor) -> Tensor:
    """Return the number of labelled entries of `targets` [b, c], and 1 if there are none."""
    return (~targets.isnan()).sum().clamp(min=1)


def _loss(logits: Tensor, targets: Tensor, positive_weight: Tensor, count: Tensor) -> Tensor:
    """Return the binary cross-entropy, summed over the labelled entries of `targets`, by `count`.

    `logits` and `targets` are [b, c]: a batch or a part of it. `count` is the number of labelled
    entries of the batch, so that the parts' losses add up to the batch's.
    """
    each = functional.binary_cross_entropy_with_logits(
        logits.float(), targets.nan_to_num(), pos_weight=positive_weight, reduction="none"
    )
    return (each * ~targets.isnan()).sum() / count
