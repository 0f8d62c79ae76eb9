"""The assignment of layers to passes, so that a layer added later does not affect other layers.

A pass is a set of layers taken from one forward pass over the images. Its name is the layers joined
by `+`, and its stores are in `embeddings/<encoder>/<pass>/`. When the workflow is parsed, each
configured layer is assigned to the pass on disk that contains it, and all other layers share one
new pass (or several, if its name would be too long). The pass is part of paths and not of a rule's
parameters, so nothing else becomes stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SEPARATOR = "+"
# File systems allow names of 255 bytes, and writers add some characters to the name of a pass.
LONGEST = 200


def layers_of(name: str) -> list[str]:
    """Return the layers of a pass."""
    return name.split(SEPARATOR)


def assign_passes(layers: Sequence[str], folder: Path) -> dict[str, str]:
    """Return the pass of each of `layers`, given the passes that exist or are written in `folder`.

    `folder` is `embeddings/<encoder>`; it need not exist. The result stays the same while the
    passes in it are written, so all processes of a run get the same result.
    """
    on_disk = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    assigned: dict[str, str] = {}
    # The pass with most of the wanted layers comes first. Two passes may contain the same layer if
    # the configuration was changed several times.
    wanted = set(layers)
    for name in sorted(on_disk, key=lambda name: (-len(wanted & set(layers_of(name))), name)):
        for layer in layers_of(name):
            if layer in wanted:
                assigned.setdefault(layer, name)
    new = [layer for layer in layers if layer not in assigned]
    for name in _named(new):
        assigned |= dict.fromkeys(layers_of(name), name)
    return {layer: assigned[layer] for layer in layers}


def _named(layers: Sequence[str]) -> list[str]:
    """Return the passes for `layers`: one, or several if one name would be too long."""
    names: list[str] = []
    for layer in layers:
        if names and len(names[-1]) + len(layer) < LONGEST:
            names[-1] += SEPARATOR + layer
        else:
            names.append(layer)
    return names
