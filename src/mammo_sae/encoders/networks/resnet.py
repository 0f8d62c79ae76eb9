"""ResNets, with every BatchNorm folded into the convolution before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mammo_sae.encoders.networks.network import FeatureMap, Network
from mammo_sae.encoders.plans.plan import HEAD, POOLED, Convolution, block_number
from mammo_sae.encoders.plans.resnet import POOLING, STEM, STEM_CHANNELS, Block, plan

if TYPE_CHECKING:
    from mammo_sae.encoders.description import EncoderDescription


class ResidualBlock(nn.Module):
    """Convolutions with ReLU between them, added to a shortcut before the last ReLU."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(_convolution(*one) for one in block.convolutions)
        self.shortcut = None if block.shortcut is None else _convolution(*block.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, r, c] to [n, outputs, r', c'] without changing `x`."""
        y = x
        last = len(self.convolutions) - 1
        for index, convolution in enumerate(self.convolutions):
            y = convolution(y)
            if index < last:
                y = _relu(y)
        return _relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(Network):
    """A network of the ResNet family."""

    def __init__(self, description: EncoderDescription) -> None:
        super().__init__(description)
        self.plan = plan(description.architecture)
        self.stem = _convolution(STEM, 3, STEM_CHANNELS)
        self.blocks = nn.ModuleList(ResidualBlock(block) for block in self.plan.blocks)

    def begin(self, x: Tensor) -> FeatureMap:
        """Turn normalised images [n, 3, H, W] into the map before the first layer."""
        with self.fast_products():
            y = functional.max_pool2d(
                _relu(self.stem(x)), POOLING.kernel, POOLING.stride, POOLING.before
            )
        return FeatureMap(y.to(x.dtype))

    def step(self, name: str, before: FeatureMap) -> FeatureMap:
        """Compute the map of layer `name` from the map before it, which is not changed."""
        with self.fast_products():
            y = self._block(name)(before.cells)
        return FeatureMap(y.to(before.cells.dtype))

    def modules_of(self, name: str | None) -> Iterator[nn.Module]:
        """Yield the modules that compute layer `name`, or what comes before all layers (None)."""
        if name is None:
            yield self.stem
        elif name != POOLED:
            yield self._block(name)

    def _block(self, name: str) -> nn.Module:
        return self.blocks[-1 if name == HEAD else block_number(name)]


NETWORK = ResNet


def _convolution(geometry: Convolution, inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, geometry.kernel, geometry.stride, geometry.before)


def _relu(x: Tensor) -> Tensor:
    return functional.relu(x, inplace=not torch.is_grad_enabled())
