"""The data of the image page: which latents fire, where, and what they add to a logit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mammo_sae.analysis.linear import latent_weights
from mammo_sae.atlas.heat import packed, read_maps
from mammo_sae.encoders.heads import load_head
from mammo_sae.sae.files import read_decoder
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table

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


@dataclass(frozen=True)
class Linear:
    """The logits of one concept, as a linear function of an SAE's mean codes.

    Attributes
    ----------
    weights : [h]
        What a mean code of 1 of each latent adds to the logit.
    offset
        The logit with all latents at 0.
    logits
        Image -> the encoder's logit. Images without one are left out.
    """

    weights: np.ndarray
    offset: float
    logits: Mapping[str, float]


def read_linear(
    sae: Path, head: Path, predictions: Path, concepts: Sequence[str]
) -> dict[str, Linear]:
    """Return concept -> its logits as a function of the mean codes of an SAE of the head layer.

    Parameters
    ----------
    sae
        Description (`sae.json`) of the SAE.
    head
        Directory of the encoder's head. Concepts that it lacks are left out.
    predictions
        Table of the encoder's logits.
    """
    atoms, bias = read_decoder(sae)
    known, table = load_head(head), read_table(predictions)
    found = {}
    for concept in concepts:
        if concept in known.concepts:
            weights, offset = latent_weights(known, concept, atoms, bias)
            rows = table[table["concept"] == concept]
            logits = dict(zip(rows["image_id"], rows["logit"].astype(float), strict=True))
            found[concept] = Linear(weights, offset, logits)
    return found


def contributions(
    means: np.ndarray, linear: Linear, image_ids: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the parts of each image's logit: offset, named latents, other latents, SAE's error.

    A latent adds its weight times its mean code over all cells (the step `effects`). The `ADDING`
    latents that add most and the `ADDING` that lower the logit most are named. The error is what
    the encoder's logit has beyond the offset and all latents, so the parts sum to the logit. It is
    missing if the encoder's logit is.

    Parameters
    ----------
    means : [n, h]
        Mean codes of all latents.
    linear
        Weights, offset and logits of one concept.
    image_ids : [n]
    """
    parts = means.astype(np.float64) * linear.weights
    found = []
    for image, row in zip(image_ids, parts, strict=True):
        order = np.argsort(-row, kind="stable")
        chosen = [j for j in order[:ADDING] if row[j] > 0]
        chosen += [j for j in order[::-1][:ADDING][::-1] if row[j] < 0]
        logit = linear.logits.get(image)
        found.append(
            {
                "logit": logit,
                "offset": linear.offset,
                "latents": [[int(j), float(row[j])] for j in chosen],
                "rest": float(row.sum() - row[chosen].sum()),
                "others": int(np.count_nonzero(row)) - len(chosen),
                "error": None if logit is None else logit - linear.offset - float(row.sum()),
            }
        )
    return found


def read_contributions(
    reader: CodesReader, linear: Mapping[str, Linear], image_ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return image -> concept -> the parts of its logit; no concept if the logit is not linear."""
    found: dict[str, dict[str, Any]] = {image: {} for image in image_ids}
    for block in reader.image_blocks(image_ids) if linear else ():
        means = reader.pooled("mean", block)
        for concept, one in sorted(linear.items()):
            for image, part in zip(block, contributions(means, one, block), strict=True):
                found[image][concept] = part
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
                firing_of(
                    int(latents[j]), scores[i, j], highest[j], heat[position, int(latents[j])]
                )
                for j in places[i]
            ],
        )


def firing_of(latent: int, activation: float, top: float, heat: str) -> dict[str, Any]:
    """Return what an image's page shows of a latent; no share if it never fires in the split."""
    return {
        "latent": latent,
        "activation": float(activation),
        "share": float(activation / top) if top > 0 else None,
        "heat": heat,
    }
