"""The plan of EfficientNets: blocks, channels, strides, positions. This module needs no torch.

A network of the EfficientNet family has a stem, blocks of inverted residuals, and a head: a 1x1
convolution with BatchNorm and activation.

The padding of every convolution is *static*: TensorFlow's "SAME" padding for the nominal image size
of the architecture, for images of any size. The packages efficientnet-pytorch and
efficientnet-lite-pytorch do the same, and Mammo-CLIP was trained with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

from mammo_sae.encoders.plans.plan import HEAD, POOLED, Convolution, Layer, through
from mammo_sae.errors import InputError

NOMINAL_CHANNELS_OF_STEM = 32
NOMINAL_CHANNELS_OF_HEAD = 1280

# Stages of EfficientNet-B0 (Tan & Le, arXiv 1905.11946, table 1):
# blocks, kernel, stride, expansion, input channels, output channels.
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)

# Compound scaling of each architecture: width, depth, nominal image size in pixels.
SCALING = {
    "efficientnet-lite0": (1.0, 1.0, 224),
    "efficientnet-b0": (1.0, 1.0, 224),
    "efficientnet-b1": (1.0, 1.1, 240),
    "efficientnet-b2": (1.1, 1.2, 260),
    "efficientnet-b3": (1.2, 1.4, 300),
    "efficientnet-b4": (1.4, 1.8, 380),
    "efficientnet-b5": (1.6, 2.2, 456),
    "efficientnet-b6": (1.8, 2.6, 528),
    "efficientnet-b7": (2.0, 3.1, 600),
}

ArchitectureName = Literal[
    "efficientnet-lite0",
    "efficientnet-b0",
    "efficientnet-b1",
    "efficientnet-b2",
    "efficientnet-b3",
    "efficientnet-b4",
    "efficientnet-b5",
    "efficientnet-b6",
    "efficientnet-b7",
]


@dataclass(frozen=True)
class Block:
    """Channels and depthwise convolution of an inverted residual block.

    `squeezed` is the number of channels inside squeeze-and-excitation, or None without it.
    """

    inputs: int
    expanded: int
    squeezed: int | None
    outputs: int
    depthwise: Convolution
    residual: bool


@dataclass(frozen=True)
class EfficientNet:
    """The parts of a network: stem, blocks, head, activation."""

    name: str
    stem: Convolution
    stem_channels: int
    blocks: tuple[Block, ...]
    head_channels: int
    activation: Literal["relu6", "silu"]

    prefix: int = 0
    patch: int = 1
    weights: int = 30_000_000

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order of computation."""
        place = through(self.stem, (1, 0, 1))
        found = []
        for index, block in enumerate(self.blocks):
            place = through(block.depthwise, place)
            found.append(Layer(f"blocks.{index}", block.outputs, *place))
        found.append(Layer(HEAD, self.head_channels, *place))
        found.append(Layer(POOLED, self.head_channels, 0, 0, 0))
        return tuple(found)

    def grid_shape(self, layer: str, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of a layer; 0 where the image is too small for a cell."""
        names = [one.name for one in self.layers]
        depth = min(names.index(layer), len(self.blocks) - 1)
        rows, columns = height, width
        for convolution in (self.stem, *(b.depthwise for b in self.blocks[: depth + 1])):
            rows, columns = convolution.output_size(rows), convolution.output_size(columns)
        return rows, columns

    def largest_map(self, height: int, width: int) -> int:
        """Return the number of values of the largest map of one image."""
        rows, columns = self.stem.output_size(height), self.stem.output_size(width)
        largest = rows * columns * self.stem_channels
        for block in self.blocks:
            largest = max(largest, rows * columns * block.expanded)
            rows, columns = block.depthwise.output_size(rows), block.depthwise.output_size(columns)
        return max(largest, rows * columns * self.head_channels)

    def operations(self, height: int, width: int) -> float:
        """Return the multiplications and additions of one forward pass, without activations."""
        rows, columns = self.stem.output_size(height), self.stem.output_size(width)
        products = rows * columns * 3 * self.stem_channels * self.stem.kernel**2
        for block in self.blocks:
            if block.expanded != block.inputs:
                products += rows * columns * block.inputs * block.expanded
            rows, columns = block.depthwise.output_size(rows), block.depthwise.output_size(columns)
            products += rows * columns * block.expanded * block.depthwise.kernel**2
            products += rows * columns * block.expanded * block.outputs
        products += rows * columns * self.blocks[-1].outputs * self.head_channels
        return 2.0 * products


@cache
def plan(name: str) -> EfficientNet:
    """Return the plan of the architecture `name`.

    Raises
    ------
    InputError
        If there is no EfficientNet of that name.
    """
    if name not in SCALING:
        raise InputError(f"there is no architecture {name!r}; choose one of {', '.join(SCALING)}")
    width, depth, size = SCALING[name]
    lite = "lite" in name
    # The lite variants don't scale stem, first and last stage, and have no squeeze-and-excitation.
    stem_channels = NOMINAL_CHANNELS_OF_STEM if lite else _scaled(NOMINAL_CHANNELS_OF_STEM, width)
    head_channels = NOMINAL_CHANNELS_OF_HEAD if lite else _scaled(NOMINAL_CHANNELS_OF_HEAD, width)
    stem = _same_padding(3, 2, size)
    size = math.ceil(size / 2)
    blocks = []
    inputs = stem_channels
    for index, (repeats, kernel, stride, expansion, _, nominal) in enumerate(STAGES):
        outputs = _scaled(nominal, width)
        unscaled = lite and index in (0, len(STAGES) - 1)
        for repeat in range(repeats if unscaled else math.ceil(depth * repeats)):
            step = stride if repeat == 0 else 1
            blocks.append(
                Block(
                    inputs=inputs,
                    expanded=inputs * expansion,
                    squeezed=None if lite else max(1, inputs // 4),
                    outputs=outputs,
                    depthwise=_same_padding(kernel, step, size),
                    residual=step == 1 and inputs == outputs,
                )
            )
            size = math.ceil(size / step)
            inputs = outputs
    return EfficientNet(
        name=name,
        stem=stem,
        stem_channels=stem_channels,
        blocks=tuple(blocks),
        head_channels=head_channels,
        activation="relu6" if lite else "silu",
    )


def _scaled(channels: int, width: float) -> int:
    """Return `channels` * `width`, rounded to a multiple of 8 that is at most a tenth too small."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def _same_padding(kernel: int, stride: int, size: int) -> Convolution:
    """Return a convolution with TensorFlow's "SAME" padding for inputs of edge length `size`."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return Convolution(kernel, stride, before=total // 2, after=total - total // 2)
