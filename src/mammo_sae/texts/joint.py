"""The joint space of images and phrases: the embeddings of phrases and the images' projection.

An image with the features x (the encoder's layer `pooled`) lies at W x + b, a phrase at its vector.
Their similarity is the cosine. Without a projection, W is the identity and b is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from mammo_sae.errors import InputError, first_line
from mammo_sae.stores.publish import atomic_file
from mammo_sae.stores.tables import read_table, write_table

DECOY = "decoy"
"""The group of phrases that describe no mammogram."""


@dataclass(frozen=True)
class Projection:
    """The map from an encoder's features to the joint space.

    `weight` is float32 [d, c] and `bias` float32 [d].
    """

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Joint:
    """V phrases in a joint space of d dimensions.

    Attributes
    ----------
    table
        `phrase`, `group` and `label` of each phrase.
    vectors : [V, d] float32
        Embeddings of the phrases, of length 1.
    projection
        The map of the images' features; None if they are in the joint space already.
    """

    table: pd.DataFrame
    vectors: np.ndarray
    projection: Projection | None

    @property
    def decoys(self) -> np.ndarray:
        """Whether each phrase is a decoy, bool [V]."""
        return (self.table["group"] == DECOY).to_numpy()

    @property
    def contrasts(self) -> np.ndarray:
        """The vectors minus their mean over the phrases that are no decoys, of length 1, [V, d].

        All phrases share a large part, which says only that they are text.
        """
        return unit_rows(self.vectors - self.vectors[~self.decoys].mean(axis=0))

    def embedded(self, features: np.ndarray) -> np.ndarray:
        """Return the embeddings [n, d], of length 1, of images with `features` [n, c].

        Raises
        ------
        InputError
            If the number of features is not that of the projection.
        """
        return unit_rows(self._mapped(features, bias=True))

    def directions(self, atoms: np.ndarray) -> np.ndarray:
        """Return the directions W d_t [h, d], of length 1, of atoms d_t [h, c] of the features.

        A code z_t moves an image by z_t W d_t; the bias is the same for all images.
        """
        return unit_rows(self._mapped(atoms, bias=False))

    def _mapped(self, features: np.ndarray, *, bias: bool) -> np.ndarray:
        weight = None if self.projection is None else self.projection.weight
        wanted = self.vectors.shape[1] if weight is None else weight.shape[1]
        if features.shape[1] != wanted:
            raise InputError(
                f"the encoder has {features.shape[1]} features and the phrases' space takes "
                f"{wanted}; set text.encoder to the encoder that was trained with these phrases, "
                "or text.projection to its projection"
            )
        if self.projection is None:
            return features.astype(np.float32)
        mapped = features.astype(np.float32) @ self.projection.weight.T
        return mapped + self.projection.bias if bias else mapped


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Return `values` [n, d] with rows of length 1, float32. Rows of zeros stay."""
    values = values.astype(np.float32)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1)


def save_joint(joint: Joint, table: Path, vectors: Path) -> None:
    """Write the phrases (.parquet), and their vectors and the projection (.safetensors)."""
    tensors = {"vectors": joint.vectors}
    if joint.projection is not None:
        tensors |= {"weight": joint.projection.weight, "bias": joint.projection.bias}
    with atomic_file(vectors) as aside:
        aside.write_bytes(
            save({name: np.ascontiguousarray(t, np.float32) for name, t in tensors.items()})
        )
    write_table(joint.table, table)


def load_joint(table: Path, vectors: Path) -> Joint:
    """Read what `save_joint` wrote.

    Raises
    ------
    InputError
        If a file is missing or damaged, or if the files are of different vocabularies.
    """
    phrases = read_table(table)
    try:
        tensors = load_file(vectors)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{vectors} can't be read ({first_line(error)}); run embed_phrases again"
        ) from None
    if len(tensors["vectors"]) != len(phrases):
        raise InputError(f"{table} and {vectors} are of different phrases; run embed_phrases again")
    projection = Projection(tensors["weight"], tensors["bias"]) if "weight" in tensors else None
    return Joint(phrases, tensors["vectors"], projection)
