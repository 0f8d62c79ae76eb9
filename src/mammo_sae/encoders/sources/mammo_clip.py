"""A checkpoint of Mammo-CLIP: pretraining (.tar) or downstream classifier (.pth)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mammo_sae.encoders import checkpoints, hub, mammo_clip
from mammo_sae.encoders.description import MAMMO_CLIP, EncoderDescription
from mammo_sae.encoders.network import CLASSIFIER
from mammo_sae.errors import InputError

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import MammoClipSource


@dataclass(frozen=True)
class Terms:
    """The terms under which weights are published, and their training data."""

    licence: str
    forbids: str
    data: str


# As its publishers state them in November 2026.
TERMS = Terms(
    licence="CC BY-NC-SA 4.0 (since 2025-10-16)",
    forbids="commercial use; sharing what is made from the weights under any other licence",
    data="ImageNet-1k, then mammograms and reports of UPMC",
)
WITH_VINDR = "; the file's configuration names VinDr-Mammo among the pretraining data"
DOWNSTREAM = "; the file has a downstream classifier, which its publisher trains on VinDr-Mammo"


def read(source: MammoClipSource) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights and the description of a source."""
    return read_published(source, "Mammo-CLIP", TERMS)


def read_published(
    source: MammoClipSource, name: str, terms: Terms
) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights of a checkpoint in Mammo-CLIP's form, published as `name`."""
    path = Path(source.path)
    if source.hub is not None:
        hub.fetch(source.hub, path)
    digest = checkpoints.check_sha256(path, source.sha256)
    checkpoint = mammo_clip.read_checkpoint(path, source.architecture)
    state = dict(checkpoint.encoder)
    parts = [(path, checkpoint, source.classifier)] if source.classifier else []
    for head in source.heads:
        other = Path(head.path)
        checkpoints.check_sha256(other, head.sha256)
        further = mammo_clip.read_checkpoint(other, source.architecture)
        _check_same_encoder(path, checkpoint.encoder, other, further.encoder)
        parts.append((other, further, head.classifier))
    if parts:
        weights, biases = zip(*(_classifier(*part) for part in parts), strict=True)
        state[f"{CLASSIFIER}weight"] = torch.cat(weights)
        state[f"{CLASSIFIER}bias"] = torch.cat(biases)
    data = terms.data + (WITH_VINDR if checkpoint.with_vindr else "")
    return state, EncoderDescription(
        kind="pretrained",
        architecture=source.architecture,
        normalisation=MAMMO_CLIP,
        classifier=tuple(concept for _, _, concepts in parts for concept in concepts),
        source=f"{name}, {source.hub or path.name}",
        licence=terms.licence,
        forbids=terms.forbids,
        data=data + (DOWNSTREAM if checkpoint.weight is not None else ""),
        sha256=digest,
    )


def _check_same_encoder(
    path: Path, encoder: dict[str, Tensor], other: Path, further: dict[str, Tensor]
) -> None:
    """Refuse a classifier of another image encoder, because it needs that encoder's features."""
    differ = [key for key, value in encoder.items() if not torch.equal(value, further[key])]
    if differ:
        raise InputError(
            f"checkpoint {other} holds another image encoder than {path} ({len(differ)} of "
            f"{len(encoder)} tensors differ, {differ[0]} first); give it an encoder of its own "
            "under encoders instead of naming it under heads"
        )


def _classifier(
    path: Path, checkpoint: mammo_clip.Checkpoint, concepts: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Return weight [c, d] and bias [c] of a checkpoint's classifier, a row per concept."""
    weight, bias = checkpoint.weight, checkpoint.bias
    outputs = 0 if weight is None else len(weight)
    if weight is None or bias is None or outputs != len(concepts):
        raise InputError(
            f"checkpoint {path} has a classifier of {outputs} outputs, but classifier names "
            f"{len(concepts)}; name one concept per output"
        )
    if outputs == 1:
        return weight, bias
    # Several outputs are passed to a softmax, which does not change if a constant is added to all
    # of them. After centring, an output is the log-odds of its class against the geometric mean of
    # the classes.
    return weight - weight.mean(0), bias - bias.mean()
