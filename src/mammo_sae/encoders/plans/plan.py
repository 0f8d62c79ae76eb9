"""What a plan of a network says: its layers and the positions of their cells. No torch is needed.

A plan is read where a network need not run: to check a configuration, to name the files of a run
and to estimate memory and time. Each family of networks has a module in this folder with a function
`plan`, and a module of the same name in `mammo_sae.encoders.networks`, which runs the network.

The layers of every network, by name:

- ``blocks.N``: the output of block N;
- ``head``: the final map, before pooling;
- ``pooled``: what the head predicts from, a grid of one cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

HEAD = "head"
POOLED = "pooled"

Pooling = Literal["mean", "cls", "attention"]
Place = tuple[int, int, int]  # stride, start and receptive field of a layer's cells


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
class Layer:
    """A layer's channels, and the positions of its cells in the image.

    Cell i sees `receptive_field` pixels from ``start + i * stride`` on, not counting
    squeeze-and-excitation, which averages the whole map. `start` is negative because of padding.
    A `receptive_field` of 0 means that a cell sees the whole image. The one cell of `pooled` has
    the stride 0.
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
        if not self.receptive_field:
            return float(self.start)
        return self.start + (self.receptive_field - self.stride) / 2


class Plan(Protocol):
    """The plan of a network.

    Attributes
    ----------
    name
        Name of the architecture.
    layers
        The layers, in the order of computation. The last are `head` and `pooled`.
    prefix
        Number of tokens that a layer has beside its grid: class token and registers.
    patch
        Edge of a patch in pixels. No cell sees the rows and columns beyond a multiple of it. 1 if
        the network does not cut images into patches.
    weights
        About the number of weights, for estimates of memory.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def layers(self) -> tuple[Layer, ...]: ...  # noqa: D102

    @property
    def prefix(self) -> int: ...  # noqa: D102

    @property
    def patch(self) -> int: ...  # noqa: D102

    @property
    def weights(self) -> int: ...  # noqa: D102

    def grid_shape(self, layer: str, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of a layer; 0 where the image is too small for a cell."""

    def largest_map(self, height: int, width: int) -> int:
        """Return the number of values of the largest map of one image."""

    def operations(self, height: int, width: int) -> float:
        """Return the multiplications and additions of one forward pass, without activations."""


def through(convolution: Convolution, place: Place) -> Place:
    """Return stride, start and receptive field after a convolution, from those before it."""
    stride, start, field = place
    return (
        stride * convolution.stride,
        start - convolution.before * stride,
        field + (convolution.kernel - 1) * stride,
    )


def block_number(layer: str) -> int:
    """Return N of the layer ``blocks.N``."""
    return int(layer.removeprefix("blocks."))
