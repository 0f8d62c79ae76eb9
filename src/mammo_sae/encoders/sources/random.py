"""Seeded random weights, the control for claims about trained encoders."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mammo_sae.encoders.description import IMAGENET, EncoderDescription
from mammo_sae.encoders.networks.efficientnet import EfficientNet, Pointwise, Spatial

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import RandomSource


def read(source: RandomSource) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return normal random weights that give each convolution outputs of mean 0 and variance 1.

    This is layer-sequential unit variance (Mishkin & Matas, arXiv 1511.06422) on seeded noise
    images. Values at the last layer are then as large as at the first.
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
    network = EfficientNet(details).requires_grad_(False)
    generator = torch.Generator().manual_seed(source.seed)
    hooks = []
    for module in network.modules():
        if isinstance(module, Pointwise | Spatial | nn.Linear):
            inputs = module.weight[0].numel()
            module.weight.normal_(0, math.sqrt(2 / inputs), generator=generator)
            module.bias.zero_()
        if isinstance(module, Pointwise | Spatial):
            hooks.append(module.register_forward_hook(_standardise))
    # Noise at every scale, as in images. With white noise, coarse filters would have no signal.
    noise = torch.zeros(8, 1, 224, 224)
    for size in (4, 16, 56, 224):
        coarse = torch.randn(8, 1, size, size, generator=generator)
        noise += functional.interpolate(coarse, size=224, mode="bilinear")
    network(network.normalise((128 + 50 * noise[:, 0]).clamp(0, 255).to(torch.uint8)))
    for hook in hooks:
        hook.remove()
    return network.state_dict(), details


def _standardise(module: Pointwise | Spatial, _inputs: tuple[Tensor], outputs: Tensor) -> Tensor:
    """Return `outputs` with mean 0 per channel and variance 1 overall; change `module` to match."""
    mean = outputs.mean((0, 2, 3))
    centred = outputs - mean[:, None, None]
    deviation = centred.square().mean().sqrt()
    module.weight.div_(deviation)
    module.bias.sub_(mean).div_(deviation)
    return centred / deviation
