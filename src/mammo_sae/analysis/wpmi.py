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

import numpy as np
from scipy.special import softmax

FIRST, LAST = 0.998, 0.97
LEAST = 1e-7  # added to a factor before its logarithm, as in the public code
VALUES = 1 << 22  # largest number of scores that are sorted at a time


def phrase_probabilities(similarity: np.ndarray, sharpness: float) -> np.ndarray:
    """Return P(v | x), float32 [n, V], from the cosines [n, V] and a = `sharpness`."""
    return softmax(sharpness * similarity.astype(np.float32), axis=1)


def log_likelihood(scores: np.ndarray, probabilities: np.ndarray, top: int) -> np.ndarray:
    """Return log P(v | B_t), float32 [b, V], of latents with `scores` [b, n].

    `probabilities` [n, V] are P(v | x), and `top` is K. Images with the same score count in their
    order. A latent that fires nowhere gets 0 for every phrase.
    """
    top = min(top, scores.shape[1])
    result = np.zeros((len(scores), probabilities.shape[1]), np.float32)
    inside = _inside(top)
    step = max(1, VALUES // max(1, scores.shape[1]))
    for start in range(0, len(scores), step):
        part = scores[start : start + step]
        order = np.argsort(-part, axis=1, kind="stable")[:, :top]
        fires = np.take_along_axis(part, order, axis=1) > 0
        total = result[start : start + step]
        for place in range(top):
            factor = 1 + inside[place] * (probabilities[order[:, place]] - 1)
            total += np.log(factor + LEAST) * fires[:, place, None]
        total *= top / np.maximum(fires.sum(axis=1), 1)[:, None]
    return result


def log_prior(probabilities: np.ndarray, top: int) -> np.ndarray:
    """Return log P(v), float32 [V]: the mean log likelihood of K = `top` images drawn at random.

    `probabilities` [n, V] are P(v | x) of the images that can be drawn.
    """
    total = np.zeros(probabilities.shape[1])
    for inside in _inside(min(top, len(probabilities))):
        total += np.log(1 + inside * (probabilities - 1) + LEAST).mean(axis=0)
    return total.astype(np.float32)


def _inside(top: int) -> np.ndarray:
    """Return P(x in B_t) of the K = `top` images, [K]."""
    return (FIRST - np.arange(top) / max(top, 1) * (FIRST - LAST)).astype(np.float32)
