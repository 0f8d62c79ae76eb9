"""The linear head of an encoder: from pooled features to one logit per concept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from mammo_sae.errors import InputError
from mammo_sae.stores.checksums import file_digest
from mammo_sae.stores.publish import atomic_file, read_json, write_json

WEIGHTS = "head.safetensors"
DESCRIPTION = "head.json"


@dataclass(frozen=True)
class Head:
    """A linear map from pooled features [n, d] to logits [n, c].

    `weight` is float32 [c, d], `bias` float32 [c]. Row i belongs to `concepts[i]`.
    """

    weight: np.ndarray
    bias: np.ndarray
    concepts: tuple[str, ...]

    def logits(self, pooled: np.ndarray) -> np.ndarray:
        """Return the float32 logits [n, c] of `pooled` features [n, d]."""
        return pooled.astype(np.float32) @ self.weight.T + self.bias

    def row(self, concept: str) -> int:
        """Return the row of `concept`.

        Raises
        ------
        InputError
            If the head was not trained on the concept.
        """
        if concept not in self.concepts:
            raise InputError(
                f"the head has no concept {concept!r}, only {', '.join(self.concepts)}; "
                "train it on that concept or leave the concept out"
            )
        return self.concepts.index(concept)


def save_head(head: Head, weights: Path, description: Path) -> None:
    """Write `head`. Its description is written last: a head that has one is complete."""
    with atomic_file(weights) as path:
        tensors = {"weight": head.weight, "bias": head.bias}
        path.write_bytes(
            save({name: np.ascontiguousarray(t, np.float32) for name, t in tensors.items()})
        )
    write_json(
        description,
        {
            "concepts": list(head.concepts),
            "channels": head.weight.shape[1],
            "digest": file_digest(weights),
        },
    )


def load_head(directory: Path) -> Head:
    """Read the head in `directory`.

    Raises
    ------
    InputError
        If a file is missing or damaged. The message names it.
    """
    weights = directory / WEIGHTS
    description = read_json(directory / DESCRIPTION)
    try:
        same = file_digest(weights) == description["digest"]
        tensors = load_file(weights) if same else {}
    except Exception as error:
        raise InputError(
            f"{weights} is missing or damaged ({error}); run the head's training again"
        ) from None
    if not same:
        raise InputError(
            f"{weights} does not match {DESCRIPTION} beside it; run the head's training again"
        )
    return Head(tensors["weight"], tensors["bias"], tuple(description["concepts"]))
