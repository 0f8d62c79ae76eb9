"""EfficientNet architectures: layers, channels, strides, positions. This module needs no torch.

A network of the EfficientNet family has a stem, blocks of inverted residuals, and a head: a 1x1
convolution with BatchNorm and activation. Its layers, by name:

- ``blocks.N``: the output of block N;
- ``head``: the final map, after the head's activation and before pooling;
- ``pooled``: the average of the final map over its cells, a grid of one cell.

The padding of every convolution is *static*: TensorFlow's "SAME" padding for the nominal image size
of the architecture, for images of any size. The packages efficientnet-pytorch and
efficientnet-lite-pytorch do the same, and Mammo-CLIP was trained with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

from mammo_sae.errors import InputError

HEAD = "head"
POOLED = "pooled"
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
class Convolution:
    """Size, stride and zero padding of a square convolution, equal in both directions.

    `before` and `after` are the zeros that are added at the start and at the end of an axis.
    """

    kernel: int
    stride: int
    before: int
    after: int

    def output_size(self, size: int) -> int:
        """Return the number of outputs along an axis of `size` inputs (0 if it is too small)."""
        return max((size + self.before + self.after - self.kernel) // self.stride + 1, 0)


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
class Architecture:
    """The parts of a network: stem, blocks, head, activation."""

    name: str
    stem: Convolution
    stem_channels: int
    blocks: tuple[Block, ...]
    head_channels: int
    activation: Literal["relu6", "silu"]


@dataclass(frozen=True)
class Layer:
    """A layer's channels, and the positions of its cells in the image.

    Cell i sees `receptive_field` pixels from ``start + i * stride`` on, not counting
    squeeze-and-excitation, which averages the whole map. `start` is negative because of padding.
    For `pooled`, `stride` and `receptive_field` are 0: its one cell sees the whole image.
    """

    name: str
    channels: int
    stride: int
    start: int
    receptive_field: int

    @property
    def offset(self) -> float:
        """The pixel where cell 0 begins.

        A cell is `stride` pixels wide and lies in the middle of its receptive field.
        """
        return self.start + (self.receptive_field - self.stride) / 2


@cache
def architecture(name: str) -> Architecture:
    """Return the architecture `name`.

    Raises
    ------
    InputError
        If there is no architecture of that name.
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
    return Architecture(
        name=name,
        stem=stem,
        stem_channels=stem_channels,
        blocks=tuple(blocks),
        head_channels=head_channels,
        activation="relu6" if lite else "silu",
    )


@cache
def layers(name: str) -> tuple[Layer, ...]:
    """Return the layers of the architecture `name`, in the order of computation.

    Raises
    ------
    InputError
        If there is no architecture of that name.
    """
    network = architecture(name)
    stride, start, field = 1, 0, 1
    found = []

    def pass_through(convolution: Convolution) -> None:
        nonlocal stride, start, field
        start -= convolution.before * stride
        field += (convolution.kernel - 1) * stride
        stride *= convolution.stride

    pass_through(network.stem)
    for index, block in enumerate(network.blocks):
        pass_through(block.depthwise)
        found.append(Layer(f"blocks.{index}", block.outputs, stride, start, field))
    found.append(Layer(HEAD, network.head_channels, stride, start, field))
    found.append(Layer(POOLED, network.head_channels, 0, 0, 0))
    return tuple(found)


def layer_names(name: str) -> tuple[str, ...]:
    """Return the names of the layers of the architecture `name`, shallowest first."""
    return tuple(layer.name for layer in layers(name))


def find_layer(name: str, layer: str) -> Layer:
    """Return the layer called `layer` of the architecture `name`.

    Raises
    ------
    InputError
        If the architecture has no such layer.
    """
    for candidate in layers(name):
        if candidate.name == layer:
            return candidate
    last = len(architecture(name).blocks) - 1
    raise InputError(
        f"{name} has no layer {layer!r}; choose blocks.0 to blocks.{last}, {HEAD} or {POOLED}"
    )


def grid_shape(name: str, layer: str, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of `layer` for an image of `height` x `width` pixels.

    Raises
    ------
    InputError
        If there is no such layer, or the image is too small for one cell.
    """
    find_layer(name, layer)
    network = architecture(name)
    depth = min(layer_names(name).index(layer), len(network.blocks) - 1)
    rows, columns = height, width
    for convolution in (network.stem, *(b.depthwise for b in network.blocks[: depth + 1])):
        rows, columns = convolution.output_size(rows), convolution.output_size(columns)
    if not rows or not columns:
        raise InputError(
            f"an image of {height}x{width} pixels is too small for layer {layer} of {name}"
        )
    return (1, 1) if layer == POOLED else (rows, columns)


def listing(name: str, height: int, width: int) -> str:
    """Return the layers of the architecture `name` as a text table, one line per layer.

    Columns: channels; stride and receptive field in pixels; grid of an image of `height` x `width`
    pixels; kilobytes of that image's embedding in float16.
    """
    rows = [("layer", "channels", "stride", "grid", "receptive field", "kB per image")]
    for layer in layers(name):
        cells = grid_shape(name, layer.name, height, width)
        size = 2 * layer.channels * cells[0] * cells[1]
        rows.append(
            (
                layer.name,
                str(layer.channels),
                str(layer.stride or "-"),
                f"{cells[0]}x{cells[1]}",
                str(layer.receptive_field or "image"),
                f"{size / 1e3:.1f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) if c == 0 else cell.rjust(w) for c, (cell, w) in enumerate(line))
        for line in (zip(row, widths, strict=True) for row in rows)
    )


def largest_map(name: str, height: int, width: int) -> int:
    """Return the number of values of the largest map for an image of `height` x `width` pixels."""
    network = architecture(name)
    rows, columns = network.stem.output_size(height), network.stem.output_size(width)
    largest = rows * columns * network.stem_channels
    for block in network.blocks:
        largest = max(largest, rows * columns * block.expanded)
        rows, columns = block.depthwise.output_size(rows), block.depthwise.output_size(columns)
    return max(largest, rows * columns * network.head_channels)


def _scaled(channels: int, width: float) -> int:
    """Return `channels` * `width`, rounded to a multiple of 8 that is at most a tenth too small."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def _same_padding(kernel: int, stride: int, size: int) -> Convolution:
    """Return a convolution with TensorFlow's "SAME" padding for inputs of edge length `size`."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return Convolution(kernel, stride, before=total // 2, after=total - total // 2)
