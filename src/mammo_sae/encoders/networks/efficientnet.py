"""Networks of the EfficientNet family.

The weights are those of the packages efficientnet-pytorch and efficientnet-lite-pytorch, with every
BatchNorm folded into the convolution before it. Maps are torch tensors [n, c, rows, columns] in
channels-last memory. So a stored embedding [n, rows, columns, c] is a map without a copy, and every
1x1 convolution is a matrix product over the cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mammo_sae.encoders.depthwise import DepthwiseOnCPU
from mammo_sae.encoders.networks.network import FeatureMap, Network
from mammo_sae.encoders.plans.efficientnet import Block, plan
from mammo_sae.encoders.plans.plan import HEAD, POOLED, Convolution, block_number

if TYPE_CHECKING:
    from mammo_sae.encoders.description import EncoderDescription


class Pointwise(nn.Module):
    """A 1x1 convolution with bias, the same linear map for every cell."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.products: torch.dtype | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, r, c] to [n, outputs, r, c], of type `products` if that is set."""
        dtype = self.products or x.dtype
        cells = functional.linear(
            x.permute(0, 2, 3, 1).to(dtype), self.weight.to(dtype), self.bias.to(dtype)
        )
        return cells.permute(0, 3, 1, 2)


class Spatial(nn.Module):
    """A convolution with bias and static padding; depthwise if `groups` equals its channels."""

    def __init__(self, inputs: int, outputs: int, geometry: Convolution, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(outputs, inputs // groups, geometry.kernel, geometry.kernel)
        )
        self.bias = nn.Parameter(torch.empty(outputs))
        self.geometry = geometry
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, r, c] to [n, outputs, r', c']."""
        geometry = self.geometry
        weight: Tensor = self.weight
        extra = geometry.after - geometry.before
        if extra:
            # Zeros at the start of the kernel have the effect of more padding at that edge,
            # without a padded copy of the map.
            weight = functional.pad(weight, (extra, 0, extra, 0))
        if torch.is_grad_enabled() and self.groups > 1 and not x.is_cuda:
            # torch declares no types for `apply`.
            return DepthwiseOnCPU.apply(  # type: ignore[no-untyped-call]
                x, weight, self.bias, geometry.stride, geometry.after
            )
        return functional.conv2d(
            x,
            weight.to(x.dtype),
            self.bias.to(x.dtype),
            geometry.stride,
            geometry.after,
            groups=self.groups,
        )


class SqueezeExcitation(nn.Module):
    """Channel gates, computed from the channels' averages (Hu et al., arXiv 1709.01507)."""

    def __init__(self, channels: int, squeezed: int, activation: str) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, squeezed)
        self.expand = nn.Linear(squeezed, channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` [n, channels, r, c] with each channel multiplied by its gate."""
        averages = x.mean((2, 3), dtype=self.reduce.weight.dtype)
        squeezed = activate(self.reduce(averages), self.activation)
        gates = torch.sigmoid(self.expand(squeezed))[:, :, None, None].to(x.dtype)
        return x * gates if torch.is_grad_enabled() else x.mul_(gates)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, gates, projection, skip (Sandler et al., 1801.04381)."""

    def __init__(self, block: Block, activation: str) -> None:
        super().__init__()
        self.expand = (
            Pointwise(block.inputs, block.expanded) if block.expanded != block.inputs else None
        )
        self.depthwise = Spatial(
            block.expanded, block.expanded, block.depthwise, groups=block.expanded
        )
        self.gates = (
            SqueezeExcitation(block.expanded, block.squeezed, activation)
            if block.squeezed
            else None
        )
        self.project = Pointwise(block.expanded, block.outputs)
        self.residual = block.residual
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, r, c] to [n, outputs, r', c'] without changing `x`."""
        y = x
        if self.expand is not None:
            y = activate(self.expand(y), self.activation)
        y = activate(self.depthwise(y), self.activation)
        if self.gates is not None:
            y = self.gates(y)
        y = self.project(y).to(x.dtype)
        return y.add_(x) if self.residual else y


def activate(x: Tensor, activation: str) -> Tensor:
    """Apply ReLU6 or SiLU, in place unless a gradient needs the input."""
    inplace = not torch.is_grad_enabled()
    if activation == "relu6":
        return functional.hardtanh(x, 0.0, 6.0, inplace=inplace)
    return functional.silu(x, inplace=inplace)


class EfficientNet(Network):
    """A network of the EfficientNet family."""

    def __init__(self, description: EncoderDescription) -> None:
        super().__init__(description)
        self.plan = plan(description.architecture)
        activation = self.plan.activation
        self.stem = Spatial(3, self.plan.stem_channels, self.plan.stem)
        self.blocks = nn.ModuleList(InvertedResidual(b, activation) for b in self.plan.blocks)
        self.head = Pointwise(self.plan.blocks[-1].outputs, self.plan.head_channels)

    def begin(self, x: Tensor) -> FeatureMap:
        """Turn normalised images [n, 3, H, W] into the map before the first layer."""
        return FeatureMap(activate(self.stem(x), self.plan.activation))

    def step(self, name: str, before: FeatureMap) -> FeatureMap:
        """Compute the map of layer `name` from the map before it, which is not changed."""
        x = before.cells
        if name == HEAD:
            return FeatureMap(activate(self.head(x).to(x.dtype), self.plan.activation))
        return FeatureMap(self.blocks[block_number(name)](x))

    def modules_of(self, name: str | None) -> Iterator[nn.Module]:
        """Yield the modules that compute layer `name`, or what comes before all layers (None)."""
        if name is None:
            yield self.stem
        elif name == HEAD:
            yield self.head
        elif name != POOLED:
            yield self.blocks[block_number(name)]

    def use_products(self, dtype: torch.dtype) -> None:
        """Compute the 1x1 convolutions in `dtype`, for training with weights in float32."""
        for module in self.modules():
            if isinstance(module, Pointwise):
                module.products = dtype
