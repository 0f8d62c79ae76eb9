"""The inputs of a network for some images: pixels, or stored maps of a layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mammo_sae.encoders.networks.network import FeatureMap, Network, to_map


@dataclass(frozen=True)
class Batch:
    """Pixels of images, or their maps at a layer as a store has them.

    Attributes
    ----------
    values
        Pixels uint8 [n, H, W], or cells [n, rows, columns, c].
    prefix
        The tokens beside the cells, [n, t, c]; None for pixels, and if there are no such tokens.
    """

    values: Tensor
    prefix: Tensor | None = None

    @classmethod
    def of(cls, values: np.ndarray, prefix: np.ndarray | None = None) -> Batch:
        """Return a batch of arrays."""
        return cls(torch.from_numpy(values), None if prefix is None else torch.from_numpy(prefix))

    def __len__(self) -> int:
        return len(self.values)

    def part(self, some: slice) -> Batch:
        """Return some of the images."""
        return Batch(self.values[some], None if self.prefix is None else self.prefix[some])

    def parts(self, size: int) -> Iterator[Batch]:
        """Yield the images in parts of at most `size`."""
        for start in range(0, len(self), size):
            yield self.part(slice(start, start + size))

    def pinned(self) -> Batch:
        """Return the batch in memory that a GPU can read while it computes."""
        prefix = None if self.prefix is None else self.prefix.pin_memory()
        return Batch(self.values.pin_memory(), prefix)


def network_input(
    network: Network, values: Tensor, prefix: Tensor | None, start: str | None
) -> Tensor | FeatureMap:
    """Return what `Network.forward_layers` takes with `start`, on the network's device.

    `values` and `prefix` are those of a `Batch`: of pixels if `start` is None, else of the maps of
    layer `start`.
    """
    values = values.to(network.device, non_blocking=True)
    if start is None:
        return network.normalise(values)
    if prefix is not None:
        prefix = prefix.to(network.device, non_blocking=True)
    return to_map(values, network.dtype, prefix)
