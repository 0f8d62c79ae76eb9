"""The interface of networks, which can start and stop at any layer.

A layer's map is a grid of cells and, in a vision transformer, some tokens beside it: the class
token and registers. The rest of the network needs both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mammo_sae.encoders.architectures import (
    find_layer,
    grid_shape,
    layer_names,
    prefix_tokens,
)
from mammo_sae.encoders.description import EncoderDescription, Normalisation
from mammo_sae.encoders.plans.plan import POOLED
from mammo_sae.errors import InputError
from mammo_sae.grids import LayerGrid


class FeatureMap(NamedTuple):
    """The map of a layer.

    Attributes
    ----------
    cells
        [n, c, rows, columns], in channels-last memory.
    prefix
        [n, t, c], the tokens beside the grid. None if the network has no such tokens.
    """

    cells: Tensor
    prefix: Tensor | None = None


class Network(nn.Module, ABC):
    """An encoder's network, from images to pooled features, without the linear head.

    Parameters
    ----------
    description
        Architecture, normalisation, and the layer whose map is rounded to float16 (`cached`).

    Raises
    ------
    InputError
        If there is no such architecture or no layer `cached`.

    Notes
    -----
    The weights are not initialised; `load_encoder` fills them.
    """

    def __init__(self, description: EncoderDescription) -> None:
        super().__init__()
        self.description = description
        self.products: torch.dtype | None = None
        if description.cached is not None:
            find_layer(self.architecture, description.cached)

    @property
    def architecture(self) -> str:
        """The name of the architecture."""
        return self.description.architecture

    @property
    def dtype(self) -> torch.dtype:
        """The number type of weights and maps."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @abstractmethod
    def begin(self, x: Tensor) -> FeatureMap:
        """Turn normalised images [n, 3, H, W] into the map before the first layer."""

    @abstractmethod
    def step(self, name: str, before: FeatureMap) -> FeatureMap:
        """Compute the map of layer `name`, a block or the head, from the map before it.

        The map before it is not changed.
        """

    @abstractmethod
    def modules_of(self, name: str | None) -> Iterator[nn.Module]:
        """Yield the modules that compute layer `name`, or what comes before all layers (None)."""

    def pool(self, head: FeatureMap) -> Tensor:
        """Return the features [n, c] of the map of the layer `head`: its average."""
        return head.cells.mean((2, 3), dtype=torch.float32)

    def use_products(self, dtype: torch.dtype) -> None:
        """Compute matrix products in `dtype`, for training with weights in float32."""
        self.products = dtype

    def fast_products(self) -> torch.autocast:
        """Return a context in which torch computes products in the type of `use_products`."""
        fast = self.products not in (None, torch.float32)
        return torch.autocast(self.device.type, dtype=self.products if fast else None, enabled=fast)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn uint8 images [n, H, W] into the network's input [n, 3, H, W]."""
        return normalise(pixels, self.description.normalisation).to(self.dtype)

    def forward_layers(
        self, x: Tensor | FeatureMap, layers: Sequence[str], start: str | None = None
    ) -> dict[str, FeatureMap]:
        """Return the maps of `layers`. Layers after the deepest of them are not computed.

        Parameters
        ----------
        x
            Normalised images [n, 3, H, W] if `start` is None, else the map of layer `start`.
        layers
            Names of the layers wanted, none shallower than `start`.
        start
            Layer of the map `x`, from which the network starts. None: the image.

        Returns
        -------
        One map per layer, in the order of `layers`. That of `pooled` is float32 [n, c, 1, 1].

        Raises
        ------
        InputError
            If a name is not a layer of this network, or lies before `start`, or if a map lacks the
            tokens beside its grid.
        """
        names = layer_names(self.architecture)
        for layer in [*layers, *([start] if start is not None else [])]:
            find_layer(self.architecture, layer)
        first = -1 if start is None else names.index(start)
        for layer in layers:
            if names.index(layer) < first:
                raise InputError(f"layer {layer} lies before {start}, from which the network runs")
        wanted, found = set(layers), {}
        deepest = max((names.index(layer) for layer in layers), default=first)
        now = self._begin(x, start)
        for index in range(max(first, 0), deepest + 1):
            name = names[index]
            if name == POOLED and name != start:
                now = FeatureMap(self.pool(now)[:, :, None, None])
            elif name != start:
                now = self._rounded(name, self.step(name, now))
            if name in wanted:
                found[name] = now
        return {layer: found[layer] for layer in layers}

    def rest(self, layer: str, maps: FeatureMap) -> Tensor:
        """Run the rest of the network from the map of `layer` to pooled features.

        Returns
        -------
        float32 [n, d], bit for bit the features of the whole network.
        """
        return self.forward_layers(maps, [POOLED], start=layer)[POOLED].cells.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features, float32 [n, d], of normalised images [n, 3, H, W]."""
        return self.forward_layers(x, [POOLED])[POOLED].cells.flatten(1)

    def grid(self, layer: str, height: int, width: int) -> LayerGrid:
        """Return the positions of `layer`'s cells on images of `height` x `width` pixels."""
        rows, columns = grid_shape(self.architecture, layer, height, width)
        place = find_layer(self.architecture, layer)
        edge = max(height, width)
        if layer == POOLED:
            # One cell that is as wide as the longer side and centred, so it covers the image.
            return LayerGrid(
                layer,
                place.channels,
                rows=1,
                columns=1,
                stride=edge,
                offset_y=(height - edge) / 2,
                offset_x=(width - edge) / 2,
                receptive_field=edge,
            )
        return LayerGrid(
            layer,
            place.channels,
            rows=rows,
            columns=columns,
            stride=place.stride,
            offset_y=place.offset,
            offset_x=place.offset,
            receptive_field=place.receptive_field or edge,
        )

    def parts_after(self, layer: str | None) -> list[nn.Module]:
        """Return the modules that run after `layer`, or all modules if it is None."""
        names = [*layer_names(self.architecture)]
        after = [None, *names] if layer is None else names[names.index(layer) + 1 :]
        return [module for name in after for module in self.modules_of(name)]

    def _begin(self, x: Tensor | FeatureMap, start: str | None) -> FeatureMap:
        if isinstance(x, FeatureMap) == (start is None):
            raise TypeError("give a map with the layer from which to start, or an image without")
        if not isinstance(x, FeatureMap):
            return self.begin(x.contiguous(memory_format=torch.channels_last))
        tokens = 0 if x.prefix is None else x.prefix.shape[1]
        if start is not None and tokens != prefix_tokens(self.architecture, start):
            raise InputError(
                f"a map of layer {start} has {tokens} tokens beside its grid, but "
                f"{self.architecture} has {prefix_tokens(self.architecture, start)}; extract the "
                "embeddings again"
            )
        return x._replace(cells=x.cells.contiguous(memory_format=torch.channels_last))

    def _rounded(self, name: str, found: FeatureMap) -> FeatureMap:
        """Round the cells of the frozen layer.

        Fine-tuning read these cells from a float16 store, so the trained network rounds here. The
        tokens beside the grid are stored as float32.
        """
        if name != self.description.cached:
            return found
        return found._replace(cells=found.cells.half().to(found.cells.dtype))


def normalise(pixels: Tensor, how: Normalisation) -> Tensor:
    """Turn uint8 images [n, H, W] into float32 [n, 3, H, W], channels last.

    Each of the 256 grey levels is normalised once per image. Pixels look up their level.
    """
    count, device = len(pixels), pixels.device
    levels = torch.arange(256, dtype=torch.float32, device=device).expand(count, 256)
    if how.scale == "image":
        low, high = pixels.flatten(1).aminmax(dim=1, keepdim=True)
        levels = (levels - low) / (high - low).clamp(min=1)
    else:
        levels = levels / 255
    mean, std = (torch.tensor(values, device=device) for values in (how.mean, how.std))
    table = ((levels[..., None] - mean) / std).flatten(0, 1)
    rows = pixels.int() + 256 * torch.arange(count, dtype=torch.int32, device=device)[:, None, None]
    return functional.embedding(rows, table).permute(0, 3, 1, 2)


def to_map(
    cells: Tensor, dtype: torch.dtype = torch.float32, prefix: Tensor | None = None
) -> FeatureMap:
    """Return stored cells [n, rows, columns, c] and tokens [n, t, c] as a map of type `dtype`."""
    return FeatureMap(
        cells.to(dtype).permute(0, 3, 1, 2), None if prefix is None else prefix.to(dtype)
    )
