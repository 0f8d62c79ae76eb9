"""Architectures by name: their layers and the positions of cells. This module needs no torch.

The part of a name before the first hyphen is the family. Its module in `mammo_sae.encoders.plans`
knows the rest of the name.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec

from mammo_sae.encoders.plans import efficientnet
from mammo_sae.encoders.plans.plan import HEAD, POOLED, Layer, Plan
from mammo_sae.errors import InputError


@cache
def architecture(name: str) -> Plan:
    """Return the plan of the architecture `name`.

    Raises
    ------
    InputError
        If there is no architecture of that name.
    """
    family = name.partition("-")[0]
    module = f"mammo_sae.encoders.plans.{family}"
    # The digest of a step's code covers the EfficientNets, which are imported above. The
    # descriptions of other encoders contain a digest of their own (`EncoderDescription.software`).
    if not family.isidentifier() or family == "plan" or find_spec(module) is None:
        return efficientnet.plan(name)
    plan: Plan = import_module(module).plan(name)
    return plan


def layers(name: str) -> tuple[Layer, ...]:
    """Return the layers of the architecture `name`, in the order of computation.

    Raises
    ------
    InputError
        If there is no architecture of that name.
    """
    return architecture(name).layers


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
    last = layer_names(name)[-3]
    raise InputError(
        f"{name} has no layer {layer!r}; choose blocks.0 to {last}, {HEAD} or {POOLED}"
    )


def prefix_tokens(name: str, layer: str) -> int:
    """Return the number of tokens that a layer has beside its grid: class token and registers."""
    return 0 if layer == POOLED else architecture(name).prefix


def grid_shape(name: str, layer: str, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of `layer` for an image of `height` x `width` pixels.

    Raises
    ------
    InputError
        If there is no such layer, or the image is too small for one cell.
    """
    find_layer(name, layer)
    rows, columns = architecture(name).grid_shape(layer, height, width)
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
        size += 4 * layer.channels * prefix_tokens(name, layer.name)
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
