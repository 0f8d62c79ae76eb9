"""The plan of ResNets: blocks, channels, strides, positions. This module needs no torch.

A ResNet (He et al., arXiv 1512.03385) has a stem, a max pooling, and residual blocks. As in
torchvision, a bottleneck block strides in its 3x3 convolution. The map of the last block is the
layer ``head``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

from mammo_sae.encoders.plans.plan import HEAD, POOLED, Convolution, Layer, through
from mammo_sae.errors import InputError

STEM = Convolution(kernel=7, stride=2, before=3, after=3)
POOLING = Convolution(kernel=3, stride=2, before=1, after=1)
STEM_CHANNELS = 64
# Blocks of each stage, and the channels of a block's output over those inside it.
DEPTHS = {"resnet-18": ((2, 2, 2, 2), 1), "resnet-50": ((3, 4, 6, 3), 4)}
ResNetName = Literal["resnet-18", "resnet-50"]


@dataclass(frozen=True)
class Block:
    """Convolutions of a residual block, and of its shortcut if that is no identity.

    Each convolution has its geometry and its numbers of input and output channels. `stage` and
    `place` are the position of the block in torchvision's names.
    """

    stage: int
    place: int
    convolutions: tuple[tuple[Convolution, int, int], ...]
    shortcut: tuple[Convolution, int, int] | None

    @property
    def outputs(self) -> int:
        """Channels of the block's map."""
        return self.convolutions[-1][2]


@dataclass(frozen=True)
class ResNet:
    """The blocks of a network."""

    name: str
    blocks: tuple[Block, ...]

    prefix: int = 0
    patch: int = 1
    weights: int = 26_000_000

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order of computation."""
        place = through(POOLING, through(STEM, (1, 0, 1)))
        found = []
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            for convolution, _, _ in block.convolutions:
                place = through(convolution, place)
            name = HEAD if index == last else f"blocks.{index}"
            found.append(Layer(name, block.outputs, *place))
        found.append(Layer(POOLED, self.blocks[-1].outputs, 0, 0, 0))
        return tuple(found)

    def grid_shape(self, layer: str, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of a layer; 0 where the image is too small for a cell."""
        names = [one.name for one in self.layers]
        depth = min(names.index(layer), len(self.blocks) - 1)
        passed = [c for block in self.blocks[: depth + 1] for c, _, _ in block.convolutions]
        rows, columns = height, width
        for convolution in (STEM, POOLING, *passed):
            rows, columns = convolution.output_size(rows), convolution.output_size(columns)
        return rows, columns

    def largest_map(self, height: int, width: int) -> int:
        """Return the number of values of the largest map of one image: the stem's."""
        return STEM.output_size(height) * STEM.output_size(width) * STEM_CHANNELS

    def operations(self, height: int, width: int) -> float:
        """Return the multiplications and additions of one forward pass, without activations."""
        rows, columns = STEM.output_size(height), STEM.output_size(width)
        products = rows * columns * 3 * STEM_CHANNELS * STEM.kernel**2
        rows, columns = POOLING.output_size(rows), POOLING.output_size(columns)
        for block in self.blocks:
            for convolution, inputs, outputs in block.convolutions:
                rows, columns = convolution.output_size(rows), convolution.output_size(columns)
                products += rows * columns * inputs * outputs * convolution.kernel**2
            if block.shortcut is not None:
                products += rows * columns * block.shortcut[1] * block.shortcut[2]
        return 2.0 * products


@cache
def plan(name: str) -> ResNet:
    """Return the plan of the architecture `name`.

    Raises
    ------
    InputError
        If there is no ResNet of that name.
    """
    if name not in DEPTHS:
        raise InputError(f"there is no architecture {name!r}; choose one of {', '.join(DEPTHS)}")
    depths, expansion = DEPTHS[name]
    blocks = []
    inputs = STEM_CHANNELS
    for stage, depth in enumerate(depths, start=1):
        inner = STEM_CHANNELS * 2 ** (stage - 1)
        outputs = inner * expansion
        for place in range(depth):
            stride = 2 if stage > 1 and place == 0 else 1
            first, second = _padded(3, stride), _padded(3, 1)
            convolutions = (
                ((first, inputs, inner), (second, inner, inner))
                if expansion == 1
                else (
                    (_padded(1, 1), inputs, inner),
                    (first, inner, inner),
                    (_padded(1, 1), inner, outputs),
                )
            )
            other = stride != 1 or inputs != outputs
            shortcut = (_padded(1, stride), inputs, outputs) if other else None
            blocks.append(Block(stage, place, convolutions, shortcut))
            inputs = outputs
    return ResNet(name, tuple(blocks))


def _padded(kernel: int, stride: int) -> Convolution:
    return Convolution(kernel, stride, before=kernel // 2, after=kernel // 2)
