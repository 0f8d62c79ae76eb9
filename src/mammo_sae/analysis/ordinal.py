"""Regression on ordered classes: the proportional odds model, and concordance as its score.

With thresholds t_1 < ... < t_{K-1}, P(y <= j) = 1 / (1 + exp(x.w - t_j)) (McCullagh 1980,
https://doi.org/10.1111/j.2517-6161.1980.tb01109.x). All classes share one direction w.
"""

from __future__ import annotations

from typing import overload

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from mammo_sae import statistics as st


def proportional_odds(features: np.ndarray, levels: np.ndarray, penalty: float) -> np.ndarray:
    """Return the direction w [f] that maximises the L2-penalised weighted likelihood.

    Parameters
    ----------
    features : [n, f]
        Standardised features.
    levels : [n] int
        Ordered classes 0 to K - 1, each with at least one image.
    penalty
        Inverse strength of the penalty, as scikit-learn's C: the loss is the weighted negative
        log likelihood plus w.w / (2 C). An image of a class of size n_j has the weight
        n / (K n_j), as with scikit-learn's ``class_weight="balanced"``.
    """
    n, f = features.shape
    count = np.bincount(levels)
    weight = (n / len(count) / count)[levels]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        direction, steps = parameters[:f], parameters[f:]
        # The distances between thresholds are exponentials, so the thresholds stay in order.
        threshold = steps[0] + np.concatenate([[0.0], np.cumsum(np.exp(steps[1:]))])
        bounds = np.concatenate([[-np.inf], threshold, [np.inf]])
        score = features @ direction
        upper, lower = expit(bounds[levels + 1] - score), expit(bounds[levels] - score)
        share = np.maximum(upper - lower, 1e-12)
        rising, falling = upper * (1 - upper) / share, lower * (1 - lower) / share
        by_score = weight * (rising - falling)
        by_bound = np.zeros(len(bounds))
        np.add.at(by_bound, levels + 1, -weight * rising)
        np.add.at(by_bound, levels, weight * falling)
        # A threshold is the sum of all steps up to it, so its gradient is added to each of them.
        after = np.cumsum(by_bound[1:-1][::-1])[::-1]
        by_step = np.concatenate([after[:1], after[1:] * np.exp(steps[1:])])
        value = -(weight * np.log(share)).sum() + direction @ direction / (2 * penalty)
        return value, np.concatenate([features.T @ by_score + direction / penalty, by_step])

    start = np.zeros(f + len(count) - 1)
    below = np.cumsum(np.full(len(count), 1 / len(count)))[:-1]
    threshold = np.log(below / (1 - below))
    start[f:] = np.concatenate([threshold[:1], np.log(np.diff(threshold))])
    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x[:f]


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
