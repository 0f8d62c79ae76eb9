"""The data of the image page: which latents fire, where, and what they add to a logit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mammo_sae.atlas.heat import packed, read_maps
from mammo_sae.stores.codes import CodesReader

FIRING = 12  # latents shown per image and SAE, those of highest activation relative to their own
ADDING = 8  # latents shown per image and concept that add most to a logit, and that lower it most


def firing_latents(scores: np.ndarray, tops: np.ndarray) -> list[list[int]]:
    """Return, for each image, the columns of at most `FIRING` active latents, strongest first.

    Parameters
    ----------
    scores : [n, m]
        Activation of each latent in each image.
    tops : [m]
        Highest activation of each latent in the split. A latent's strength is its share of this.
    """
    strength = scores / np.where(tops > 0, tops, 1)
    order = np.argsort(-strength, axis=1, kind="stable")[:, :FIRING]
    return [[int(j) for j in row if strength[i, j] > 0] for i, row in enumerate(order)]


def contributions(
    means: np.ndarray, weights: np.ndarray, latents: np.ndarray
) -> list[dict[str, Any]]:
    """Return, for each image, what all latents together and the strongest ones add to a logit.

    A latent adds its weight times its mean code over all cells (the step `effects`). Of each image
    the `ADDING` latents that add most and the `ADDING` that lower the logit most are named.

    Parameters
    ----------
    means : [n, m]
        Mean codes.
    weights : [m]
    latents : [m]
        Names of the latents.
    """
    parts = means.astype(np.float64) * weights
    found = []
    for row in parts:
        order = np.argsort(-row, kind="stable")
        chosen = [j for j in order[:ADDING] if row[j] > 0]
        chosen += [j for j in order[::-1][:ADDING][::-1] if row[j] < 0]
        found.append(
            {
                "sum": float(row.sum()),
                "rest": float(row.sum() - row[chosen].sum()),
                "latents": [[int(latents[j]), float(row[j])] for j in chosen],
            }
        )
    return found


def read_contributions(
    reader: CodesReader, effects: pd.DataFrame, split: str, image_ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return image -> concept -> contributions, of an SAE whose logit is linear in its codes.

    Parameters
    ----------
    reader
        Codes of the SAE.
    effects
        Its rows of the table `effects`; empty if the logit is not linear there.
    split
        Split of the table whose rows give the weights. Weights do not depend on the split.
    image_ids
        Images to take apart.
    """
    found: dict[str, dict[str, Any]] = {image: {} for image in image_ids}
    if effects.empty:
        return found
    rows = effects[(effects["split"] == split) & effects["weight"].notna()]
    for block in reader.image_blocks(image_ids):
        means = reader.pooled("mean", block)
        for concept, mine in rows.groupby("concept", sort=True):
            latents = mine["latent"].to_numpy(np.int64)
            parts = contributions(means[:, latents], mine["weight"].to_numpy(float), latents)
            for image, part in zip(block, parts, strict=True):
                found[image][str(concept)] = part
    return found


def read_firing(
    reader: CodesReader,
    score: str,
    latents: np.ndarray,
    tops: Mapping[int, float],
    image_ids: Sequence[str],
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield (image, its strongest latents with activation, share of the highest and heat map)."""
    highest = np.array([tops[int(latent)] for latent in latents])
    scores = reader.pooled(score, image_ids, latents)
    places = firing_latents(scores, highest)
    positions = [reader.position(image) for image in image_ids]
    wanted = {
        position: [int(latents[j]) for j in row]
        for position, row in zip(positions, places, strict=True)
    }
    heat: dict[tuple[int, int], str] = {}
    for position, latent, activation in read_maps(reader, wanted):
        heat[position, latent] = packed(activation, tops[latent])
    for i, (image, position) in enumerate(zip(image_ids, positions, strict=True)):
        yield (
            image,
            [
                {
                    "latent": int(latents[j]),
                    "activation": float(scores[i, j]),
                    "share": float(scores[i, j] / highest[j]),
                    "heat": heat[position, int(latents[j])],
                }
                for j in places[i]
            ],
        )
