"""Images and latents in the joint space of images and phrases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from mammo_sae.analysis import exchange
from mammo_sae.encoders.plans.plan import POOLED
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.texts.joint import Joint, unit_rows

VALUES = 1 << 22  # largest number of scores that are ranked at a time
ROWS = 1024
QUANTILE = 0.95


def embedded_images(
    manifests: Sequence[Path], image_ids: Sequence[str], joint: Joint
) -> np.ndarray:
    """Return the embeddings float32 [n, d] of `image_ids` in the joint space, of length 1.

    `manifests` are those of the embeddings of the encoder of the joint space.

    Raises
    ------
    StoreError
        If a store is damaged or no store has an image.
    InputError
        If the encoder has another number of features than the joint space takes.
    """
    result = np.empty((len(image_ids), joint.vectors.shape[1]), np.float32)
    if not len(image_ids):
        return result
    reader = EmbeddingReader(manifests, POOLED, image_ids)
    place = {image_id: position for position, image_id in enumerate(image_ids)}
    order = np.array([place[image_id] for image_id in reader.image_ids])
    for positions, cells in reader.batches(ROWS):
        result[order[positions]] = joint.embedded(cells[:, 0, 0])
    return result


def associations(scores: np.ndarray, embedded: np.ndarray) -> np.ndarray:
    """Return the direction float32 [b, d], of length 1, in which each latent's score rises.

    It is the covariance of the ranks of the latent's scores [b, n] with the images' embeddings
    [n, d]. Its scalar product with a phrase's vector is the covariance of the ranks with the
    images' similarity to the phrase.
    """
    centred = embedded - embedded.mean(axis=0)
    result = np.zeros((len(scores), embedded.shape[1]), np.float32)
    step = max(1, VALUES // max(1, scores.shape[1]))
    for start in range(0, len(scores), step):
        ranks = rankdata(scores[start : start + step], axis=1)
        ranks -= ranks.mean(axis=1, keepdims=True)
        result[start : start + step] = ranks.astype(np.float32) @ centred
    return unit_rows(result)


@dataclass(frozen=True)
class Chance:
    """How near random directions come to their nearest phrase.

    Attributes
    ----------
    p : [h]
        p-value of each latent's cosine with its phrase.
    typical
        The 95 % quantile of the random directions' largest cosines.
    """

    p: np.ndarray
    typical: float


def chance(
    directions: np.ndarray,
    contrasts: np.ndarray,
    cosines: np.ndarray,
    *,
    draws: int,
    seed: int,
    tests: int,
) -> Chance:
    """Compare the latents' cosines with those of random directions with their nearest phrase.

    The random directions are Gaussian, with the mean and covariance of the latents' directions. So
    what all latents share is no evidence for a phrase. p = (1 + draws that are at least as near) /
    (1 + draws). If no draw is as near as k of the latents, more are drawn, until k latents among
    `tests` p-values can have a q-value of `LEAST_Q`.

    Parameters
    ----------
    directions : [h, d]
        The latents in the joint space, of length 1.
    contrasts : [V, d]
        The phrases, of length 1.
    cosines : [h]
        Cosine of each latent with its phrase.
    draws
        Number of random directions, at first.
    seed
        Seed of the random directions.
    tests
        Number of p-values in the family of the q-values.
    """
    mean, root = _moments(directions)
    ascending = np.sort(cosines)
    # The number of draws below each of the sorted cosines, and the largest cosines of the first.
    above, made, first = np.zeros(len(cosines), np.int64), 0, []
    needed, rng = draws, np.random.default_rng(seed)
    while made < needed:
        some = min(ROWS, needed - made)
        drawn = rng.standard_normal((some, len(root)), np.float32) @ root + mean
        largest = (unit_rows(drawn) @ contrasts.T).max(axis=1)
        above += np.searchsorted(np.sort(-largest), -ascending, side="right")
        first += [largest] if made < draws else []
        made += some
        if made == needed == draws and (untouched := int((above == 0).sum())):
            needed = max(needed, math.ceil(tests / (exchange.LEAST_Q * untouched)))
    p = np.empty(len(cosines))
    p[np.argsort(cosines, kind="stable")] = (1 + above) / (1 + made)
    return Chance(p, float(np.quantile(np.concatenate(first), QUANTILE)))


def _moments(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [d] of `directions` [h, d], and a root [d, d] of their covariance."""
    mean = directions.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((directions.shape[1],) * 2)
    for start in range(0, len(directions), ROWS):
        centred = directions[start : start + ROWS] - mean
        covariance += centred.T @ centred / len(directions)
    values, vectors = np.linalg.eigh(covariance)
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    return mean.astype(np.float32), root.astype(np.float32)
