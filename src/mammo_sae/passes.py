"""Which layers are extracted together, so that a layer added later leaves the others alone.

A pass is a set of layers taken from one forward pass over the images; its name is the layers
joined by `+`, its stores lie under `embeddings/<encoder>/<pass>/`. When the workflow is parsed,
each configured layer is given to the pass already on disk that holds it, and all others share one
new pass (more where its name would be too long). The pass is part of paths, not of any rule's
parameters, so nothing else becomes stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SEPARATOR = "+"
# File systems take names of 255 bytes; writers add a few to a pass's.
LONGEST = 200


def layers_of(name: str) -> list[str]:
    """Return the layers of a pass."""
    return name.split(SEPARATOR)


def assign_passes(layers: Sequence[str], folder: Path) -> dict[str, str]:
    """Return the pass of each of `layers`, given the passes begun in `folder`.

    `folder` is `embeddings/<encoder>`; it need not exist. The answer stays the same while the
    passes it names are being written, so every process of a run agrees.
    """
    on_disk = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    assigned: dict[str, str] = {}
    # The pass with most of the wanted layers first: two passes may hold the same layer when the
    # configuration went back and forth.
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
    """Return the passes that hold `layers`: one, unless a folder can't have so long a name."""
    names: list[str] = []
    for layer in layers:
        if names and len(names[-1]) + len(layer) < LONGEST:
            names[-1] += SEPARATOR + layer
        else:
            names.append(layer)
    return names
