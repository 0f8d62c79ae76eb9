"""Images and latents in the joint space of images and phrases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from mammo_sae.analysis import exchange
from mammo_sae.analysis.mean_codes import MeanCodes
from mammo_sae.encoders.plans.plan import POOLED
from mammo_sae.regression.features import DenseRows
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.texts.joint import Joint, unit_rows

VALUES = 1 << 20  # largest number of scores that are ranked, or of cosines, at a time
RANKS = 1 << 24  # largest number of ranks in memory; the images' vectors are read once for each
ROWS = 1024
QUANTILE = 0.95


def embedded_images(manifests: Sequence[Path], image_ids: Sequence[str], joint: Joint) -> DenseRows:
    """Return the embeddings [n, d] of `image_ids` in the joint space, of length 1, as float32.

    `manifests` are those of the embeddings of the encoder of the joint space. What does not fit
    into memory lies in a temporary file.

    Raises
    ------
    StoreError
        If a store is damaged or no store has an image.
    InputError
        If the encoder has another number of features than the joint space takes.
    """
    if not len(image_ids):
        return DenseRows([np.empty((0, joint.vectors.shape[1]), np.float32)])
    reader = EmbeddingReader(manifests, POOLED, image_ids)
    place = {image_id: position for position, image_id in enumerate(image_ids)}
    order: list[int] = []

    def parts() -> Iterator[np.ndarray]:
        for positions, cells in reader.batches(ROWS):
            order.extend(place[reader.image_ids[position]] for position in positions)
            yield joint.embedded(cells[:, 0, 0])

    return DenseRows(parts(), order, np.float32)


def mean_vector(embedded: DenseRows) -> np.ndarray:
    """Return the mean [d] of the n vectors of `embedded`, float32; 0 without images."""
    total = np.zeros(embedded.shape[1])
    for _, block in embedded.blocks():
        total += block.sum(axis=0, dtype=np.float64)
    return (total / max(1, embedded.shape[0])).astype(np.float32)


def cosine_blocks(
    embedded: DenseRows, contrasts: np.ndarray, centre: np.ndarray | float = 0.0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (positions of some images, their cosines with all V phrases, float32 [b, V]).

    Parameters
    ----------
    embedded : n images, d dimensions
    contrasts : [V, d]
        The phrases, of length 1.
    centre : [d]
        It is subtracted from the images' vectors.
    """
    step = max(1, VALUES // max(1, len(contrasts)))
    for images, block in embedded.blocks():
        for start in range(0, len(images), step):
            some = slice(start, start + step)
            yield images[some], unit_rows(block[some] - centre) @ contrasts.T


def associations(scores: MeanCodes, embedded: DenseRows) -> np.ndarray:
    """Return the direction float32 [h, d], of length 1, in which each latent's score rises.

    It is the covariance of the ranks of the latent's `scores` over n images with the images'
    vectors `embedded` [n, d]. Its scalar product with a phrase's vector is the covariance of the
    ranks with the images' similarity to the phrase.
    """
    mean = mean_vector(embedded)
    result = np.zeros((scores.latents, embedded.shape[1]), np.float32)
    # The vectors are read once for each block of latents. With few latents in a block, reading
    # would take longer than the product.
    step = max(1, RANKS // max(1, len(scores)))
    for start in range(0, scores.latents, step):
        latents = np.arange(start, min(start + step, scores.latents))
        result[latents] = _covariances(_centred_ranks(scores, latents), embedded, mean)
    return unit_rows(result)


def _covariances(ranks: np.ndarray, embedded: DenseRows, mean: np.ndarray) -> np.ndarray:
    """Return the product float32 [b, d] of `ranks` [b, n] and the vectors [n, d] minus `mean`."""
    result = np.zeros((len(ranks), embedded.shape[1]), np.float32)
    for images, block in embedded.blocks():
        result += ranks[:, images] @ (block - mean)
    return result


def _centred_ranks(scores: MeanCodes, latents: np.ndarray) -> np.ndarray:
    """Return the ranks float32 [b, n] of the scores of b latents, minus their mean."""
    result = np.empty((len(latents), len(scores)), np.float32)
    step = max(1, VALUES // max(1, len(scores)))
    for start in range(0, len(latents), step):
        ranks = rankdata(scores.of(latents[start : start + step]), axis=1)
        ranks -= ranks.mean(axis=1, keepdims=True)
        result[start : start + step] = ranks
    return result


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
