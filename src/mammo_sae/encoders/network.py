"""A network of the EfficientNet family that can start and stop at any layer.

The weights are those of the packages efficientnet-pytorch and efficientnet-lite-pytorch, with every
BatchNorm folded into the convolution before it. Maps are torch tensors [n, c, rows, columns] in
channels-last memory. So a stored embedding [n, rows, columns, c] is a map without a copy, and every
1x1 convolution is a matrix product over the cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from mammo_sae.encoders.architectures import (
    HEAD,
    POOLED,
    Architecture,
    Block,
    Convolution,
    architecture,
    find_layer,
    grid_shape,
    layer_names,
)
from mammo_sae.encoders.depthwise import DepthwiseOnCPU
from mammo_sae.encoders.description import (
    DIGEST,
    EncoderDescription,
    Normalisation,
    read_description,
)
from mammo_sae.errors import InputError, first_line
from mammo_sae.grids import LayerGrid
from mammo_sae.stores.checksums import file_digest
from mammo_sae.stores.publish import atomic_file, read_json, write_json

WEIGHTS = "encoder.safetensors"
DESCRIPTION = "encoder.json"
CLASSIFIER = "classifier."


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


class Network(nn.Module):
    """An encoder's network, from images to pooled features, without the linear head.

    Parameters
    ----------
    description
        Architecture, normalisation, and the layer whose map is rounded to float16 (`cached`).

    Notes
    -----
    The weights are not initialised; `load_encoder` fills them.
    """

    def __init__(self, description: EncoderDescription) -> None:
        super().__init__()
        plan: Architecture = architecture(description.architecture)
        if description.cached is not None:
            find_layer(plan.name, description.cached)
        self.description = description
        self.activation = plan.activation
        self.stem = Spatial(3, plan.stem_channels, plan.stem)
        self.blocks = nn.ModuleList(InvertedResidual(b, plan.activation) for b in plan.blocks)
        self.head = Pointwise(plan.blocks[-1].outputs, plan.head_channels)

    @property
    def architecture(self) -> str:
        """The name of the architecture."""
        return self.description.architecture

    @property
    def dtype(self) -> torch.dtype:
        """The number type of weights and maps."""
        return self.stem.weight.dtype

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn uint8 images [n, H, W] into the network's input [n, 3, H, W]."""
        return normalise(pixels, self.description.normalisation).to(self.dtype)

    def forward_layers(
        self, x: Tensor, layers: Sequence[str], start: str | None = None
    ) -> dict[str, Tensor]:
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
        One tensor [n, c, rows, columns] per layer, in the order of `layers`. The tensor of `pooled`
        is float32 [n, c, 1, 1].

        Raises
        ------
        InputError
            If a name is not a layer of this network, or lies before `start`.
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
        x = x.contiguous(memory_format=torch.channels_last)
        if start is None:
            x = activate(self.stem(x), self.activation)
        for index in range(max(first, 0), deepest + 1):
            name = names[index]
            if name != start:
                x = self._step(name, x)
            if name in wanted:
                found[name] = x
        return {layer: found[layer] for layer in layers}

    def rest(self, layer: str, maps: Tensor) -> Tensor:
        """Run the rest of the network from the map of `layer` to pooled features.

        Parameters
        ----------
        layer
            Layer of `maps`.
        maps
            [n, c, rows, columns].

        Returns
        -------
        float32 [n, d], bit for bit the features of the whole network.
        """
        return self.forward_layers(maps, [POOLED], start=layer)[POOLED].flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features, float32 [n, d], of normalised images [n, 3, H, W]."""
        return self.forward_layers(x, [POOLED])[POOLED].flatten(1)

    def grid(self, layer: str, height: int, width: int) -> LayerGrid:
        """Return the positions of `layer`'s cells on images of `height` x `width` pixels."""
        rows, columns = grid_shape(self.architecture, layer, height, width)
        place = find_layer(self.architecture, layer)
        if layer == POOLED:
            # One cell that is as wide as the longer side and centred, so it covers the image.
            edge = max(height, width)
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
            receptive_field=place.receptive_field,
        )

    def _step(self, name: str, x: Tensor) -> Tensor:
        """Compute layer `name` from the map before it."""
        if name == POOLED:
            return x.mean((2, 3), keepdim=True, dtype=torch.float32)
        if name == HEAD:
            x = activate(self.head(x).to(x.dtype), self.activation)
        else:
            x = self.blocks[int(name.removeprefix("blocks."))](x)
        # Fine-tuning read this map from a float16 store, so the trained network rounds here.
        return x.half().to(x.dtype) if name == self.description.cached else x


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


def to_map(cells: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return stored cells [n, rows, columns, c] as a map [n, c, rows, columns] of type `dtype`."""
    return cells.to(dtype).permute(0, 3, 1, 2)


def save_encoder(
    state: Mapping[str, Tensor], description: EncoderDescription, weights: Path, details: Path
) -> None:
    """Write an encoder. Its description is written last: an encoder that has one is complete."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with atomic_file(weights) as path:
        # `safetensors.torch.save_file` would make the file readable by its owner only.
        path.write_bytes(save(tensors))
    write_json(details, {**description.model_dump(mode="json"), DIGEST: file_digest(weights)})


def load_description(directory: Path) -> EncoderDescription:
    """Read the description of the encoder in `directory`.

    Raises
    ------
    InputError
        If the file is missing or damaged. The message names it.
    """
    return read_description(directory / DESCRIPTION)


def load_classifier(directory: Path) -> tuple[tuple[str, ...], Tensor, Tensor] | None:
    """Read the classifier that was published with an encoder's weights, or return None.

    Returns
    -------
    The classifier's concepts, weight [c, d] and bias [c].

    Raises
    ------
    InputError
        If a file is missing or damaged. The message names it.
    """
    concepts = load_description(directory).classifier
    if not concepts:
        return None
    path = directory / WEIGHTS
    try:
        state = _weights(directory)
        return concepts, state[f"{CLASSIFIER}weight"], state[f"{CLASSIFIER}bias"]
    except Exception as error:
        raise _damaged(path, error) from None


def load_encoder(directory: Path) -> Network:
    """Read the encoder in `directory`: on the CPU, float32, without gradients.

    Raises
    ------
    InputError
        If a file is missing or damaged. The message names it.
    """
    network = Network(load_description(directory))
    path = directory / WEIGHTS
    try:
        state = _weights(directory)
        network.load_state_dict({k: v for k, v in state.items() if not k.startswith(CLASSIFIER)})
    except Exception as error:
        raise _damaged(path, error) from None
    return network.eval().requires_grad_(False)


def _weights(directory: Path) -> dict[str, Tensor]:
    """Read the weights in `directory` and compare their digest with the description's."""
    path = directory / WEIGHTS
    if file_digest(path) != read_json(directory / DESCRIPTION).get(DIGEST):
        raise ValueError(f"it is not the file that {DESCRIPTION} describes")
    return load_file(path)


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} is missing or damaged ({first_line(error)}); "
        "delete it and run the step that makes the encoder again"
    )
