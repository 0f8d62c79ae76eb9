"""Soft-WPMI: which phrase describes the images that activate a latent most.

CLIP-Dissect (Oikarinen and Weng 2023, arXiv 2204.10965, section 3.2). Let B_t be the K images with
the highest scores of latent t, and

    P(v | x)         = softmax over phrases v of a . cos(image x, phrase v)
    log P(v | B)     = sum over x in B of log(1 + P(x in B) (P(v | x) - 1))
    score(t, v)      = log P(v | B_t) - log P(v)

P(x in B) falls linearly from 0.998 for the first image to 0.97 for the last, as in the public code
of that paper. There, log P(v) is the logarithm of the mean of P(v | B_s) over all latents s. With
many images the mean is that of its largest term. Then every phrase fits the latent that comes
nearest to it, even if it describes nothing. Here log P(v) is the mean of log P(v | B) over K images
drawn at random. On the planted truth of `tests/analysis/test_naming.py` this finds all names, and
the paper's prior about half of them. A latent that fires in fewer than K images has these alone,
and the sum is scaled to K images.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.special import softmax

from mammo_sae.analysis.mean_codes import MeanCodes

FIRST, LAST = 0.998, 0.97
LEAST = 1e-7  # added to a factor before its logarithm, as in the public code
VALUES = 1 << 20  # largest number of terms in memory at a time


def phrase_probabilities(similarity: np.ndarray, sharpness: float) -> np.ndarray:
    """Return P(v | x), float32 [n, V], from the cosines [n, V] and a = `sharpness`."""
    return softmax(sharpness * similarity.astype(np.float32), axis=1)


def best_images(scores: MeanCodes, top: int) -> np.ndarray:
    """Return int32 [h, K]: the K = `top` images with the highest scores of each latent.

    Images with the same score count in their order. If a latent fires in fewer images, -1 stands
    for the rest. With fewer images than `top`, K is their number.
    """
    top = min(top, len(scores))
    result = np.full((scores.latents, top), -1, np.int32)
    if not top:
        return result
    for latents, block in scores.blocks():
        for latent, values in zip(range(latents.start, latents.stop), block, strict=True):
            least = np.partition(values, -top)[-top]
            found = np.flatnonzero((values > 0) & (values >= least))
            order = found[np.argsort(-values[found], kind="stable")][:top]
            result[latent, : len(order)] = order
    return result


def log_likelihoods(
    best: np.ndarray, blocks: Iterable[tuple[np.ndarray, np.ndarray]], phrases: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return log P(v | B_t), float32 [h, V], and log P(v), float32 [V].

    Every image adds its terms to the sums of the latents that it is among the best of. So each
    image is needed once, and in any order. A latent that fires nowhere gets 0 for every phrase.

    Parameters
    ----------
    best : [h, K]
        The images B_t, from `best_images`.
    blocks
        (Positions of images [b], their P(v | x) [b, V]): each image that can be drawn, once.
    phrases
        V, the number of phrases.
    """
    latents, top = best.shape
    inside = _inside(top)
    result = np.zeros((latents, phrases), np.float32)
    total, drawn = np.zeros(phrases), 0
    places = np.argsort(best, axis=None, kind="stable")  # places in `best`, image by image
    ordered = best.ravel()[places]
    step = max(1, VALUES // max(1, phrases))
    for images, probabilities in blocks:
        for one in inside:
            total += _log_factor(one, probabilities).sum(axis=0)
        drawn += len(images)
        first = np.searchsorted(ordered, images, "left")
        count = np.searchsorted(ordered, images, "right") - first
        rows = np.repeat(np.arange(len(images)), count)
        found = places[np.arange(len(rows)) + np.repeat(first - count.cumsum() + count, count)]
        by_latent = np.argsort(found)
        for start in range(0, len(rows), step):
            some = by_latent[start : start + step]
            latent, place = np.divmod(found[some], top)
            logs = _log_factor(inside[place, None], probabilities[rows[some]])
            starts = np.flatnonzero(np.diff(latent, prepend=-1))
            result[latent[starts]] += np.add.reduceat(logs, starts, axis=0)
    result *= (top / np.maximum((best >= 0).sum(axis=1), 1)).astype(np.float32)[:, None]
    return result, (total / max(1, drawn)).astype(np.float32)


def _log_factor(inside: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return log(1 + P(x in B) (P(v | x) - 1)), float32 [b, V]."""
    factor = probabilities - 1
    factor *= inside
    factor += 1
    factor += LEAST
    return np.log(factor, out=factor)


def _inside(top: int) -> np.ndarray:
    """Return P(x in B_t) of the K = `top` images, [K]."""
    return (FIRST - np.arange(top) / max(top, 1) * (FIRST - LAST)).astype(np.float32)
