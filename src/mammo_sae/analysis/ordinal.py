"""Regression on ordered classes: the proportional odds model, and concordance as its score.

With thresholds t_1 < ... < t_{K-1}, P(y <= j) = 1 / (1 + exp(x.w - t_j)) (McCullagh 1980,
https://doi.org/10.1111/j.2517-6161.1980.tb01109.x). All classes share one direction w.
"""

from __future__ import annotations

from typing import overload

import numpy as np
from scipy.special import expit

from mammo_sae import statistics as st
from mammo_sae.analysis.features import Product
from mammo_sae.analysis.minimise import minimise

TOLERANCE = 1e-6
"""Largest gradient of a fit, per unit of weight."""

MOST_STEPS = 1000


def proportional_odds(
    features: Product,
    found: np.ndarray,
    levels: np.ndarray,
    used: np.ndarray,
    penalties: np.ndarray,
) -> np.ndarray:
    """Return the directions w [f, r] that maximise r L2-penalised weighted likelihoods.

    Parameters
    ----------
    features : [all images, f]
        Standardised features.
    found : [n]
        Different images, as positions in `features`.
    levels : [n] int
        Ordered classes 0 to K - 1.
    used : [n, r] bool
        The images that each of the r regressions is fitted on, at least one of each class.
    penalties : [r]
        Inverse strength of the penalty, as scikit-learn's C: the loss is the weighted negative
        log likelihood plus w.w / (2 C). An image of a class of size n_j has the weight
        n / (K n_j), as with scikit-learn's ``class_weight="balanced"``.
    """
    images, f = features.shape
    count = np.stack([np.bincount(levels[mask]) for mask in used.T], axis=1)
    total = used.sum(axis=0)
    classes = len(count)
    weights = np.where(used, (1 / classes / count)[levels], 0.0)  # they sum to 1

    def loss(parameters: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        direction, strength = parameters[:f], 1 / (penalties * total)[which]
        scores = features.times(direction)[found]
        value, slope = np.empty(len(which)), np.zeros((images, len(which)))
        by_step = np.empty((classes - 1, len(which)))
        for place, column in enumerate(which):
            value[place], slope[found, place], by_step[:, place] = _likelihood(
                scores[:, place], levels, weights[:, column], parameters[f:, place]
            )
        value += 0.5 * strength * np.square(direction).sum(axis=0)
        gradient = features.transposed_times(slope) + strength * direction
        return value, np.vstack([gradient, by_step])

    start = np.zeros((f + classes - 1, len(penalties)))
    below = np.arange(1, classes)[:, None] / classes
    threshold = np.log(below / (1 - below))
    start[f:] = np.concatenate([threshold[:1], np.log(np.diff(threshold, axis=0))])
    tolerance = np.full(len(penalties), TOLERANCE)
    return minimise(loss, start, tolerance, MOST_STEPS)[:f]


def _likelihood(
    score: np.ndarray, levels: np.ndarray, weight: np.ndarray, steps: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the negative log likelihood, its slopes [n] in the scores, and in `steps` [K - 1].

    The first step is the lowest threshold. The others are the logarithms of the distances between
    thresholds, so the thresholds stay in order.
    """
    threshold = steps[0] + np.concatenate([[0.0], np.cumsum(np.exp(steps[1:]))])
    bounds = np.concatenate([[-np.inf], threshold, [np.inf]])
    upper, lower = expit(bounds[levels + 1] - score), expit(bounds[levels] - score)
    share = np.maximum(upper - lower, 1e-12)
    rising, falling = upper * (1 - upper) / share, lower * (1 - lower) / share
    by_bound = np.zeros(len(bounds))
    np.add.at(by_bound, levels + 1, -weight * rising)
    np.add.at(by_bound, levels, weight * falling)
    # A threshold is the sum of all steps up to it, so its gradient is added to each of them.
    after = np.cumsum(by_bound[1:-1][::-1])[::-1]
    by_step = np.concatenate([after[:1], after[1:] * np.exp(steps[1:])])
    return -(weight * np.log(share)).sum(), weight * (rising - falling), by_step


@overload
def concordance(scores: np.ndarray, levels: np.ndarray) -> float: ...
@overload
def concordance(scores: np.ndarray, levels: np.ndarray, weights: np.ndarray) -> np.ndarray: ...
def concordance(
    scores: np.ndarray, levels: np.ndarray, weights: np.ndarray | None = None
) -> float | np.ndarray:
    """Return the share of pairs of images with different levels that the scores order correctly.

    With two levels this is the AUROC. Chance is 0.5. Ties of scores count one half.

    Parameters
    ----------
    scores, levels : [n]
    weights : [n, draws], optional
        Number of times that each image occurs in each bootstrap draw; the result is then [draws].
    """
    multiplicity = np.ones((len(levels), 1)) if weights is None else weights
    ordered = pairs = np.zeros(multiplicity.shape[1])
    names = np.unique(levels)
    for i, low in enumerate(names):
        for high in names[i + 1 :]:
            rows = np.flatnonzero((levels == low) | (levels == high))
            truth = levels[rows] == high
            part = multiplicity[rows]
            both = part[truth].sum(axis=0) * part[~truth].sum(axis=0)
            value = np.atleast_1d(st.auroc(scores[rows], truth, part))
            ordered = ordered + np.nan_to_num(value) * both  # value is NaN if there are no pairs
            pairs = pairs + both
    with np.errstate(invalid="ignore"):
        result = np.asarray(ordered / pairs)
    return float(result[0]) if weights is None else result
