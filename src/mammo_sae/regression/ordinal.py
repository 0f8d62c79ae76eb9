"""Regression on ordered classes: the proportional odds model, and concordance as its score.

With thresholds t_1 < ... < t_{K-1}, P(y <= j) = 1 / (1 + exp(x.w - t_j)) (McCullagh 1980,
https://doi.org/10.1111/j.2517-6161.1980.tb01109.x). All classes share one direction w.
"""

from __future__ import annotations

from typing import overload

import numpy as np
from scipy.special import expit

from mammo_sae import statistics as st
from mammo_sae.regression.features import Features
from mammo_sae.regression.newton import minimise_ridge


def proportional_odds(
    features: Features,
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
    losses = _OrderedLosses(features.shape[0], found, levels, used)
    strength = 1 / (penalties * used.sum(axis=0))
    below = np.arange(1, losses.classes)[:, None] / losses.classes
    threshold = np.tile(np.log(below / (1 - below)), (1, len(penalties)))
    return minimise_ridge(features, losses, strength, threshold)[0]


class _OrderedLosses:
    """Weighted negative log likelihoods with K - 1 thresholds each. Weights sum to 1."""

    def __init__(
        self, images: int, found: np.ndarray, levels: np.ndarray, used: np.ndarray
    ) -> None:
        count = np.stack([np.bincount(levels[mask]) for mask in used.T], axis=1)
        self.classes = len(count)
        self.extras = self.classes - 1
        self._level = np.zeros(images, np.int64)
        self._level[found] = levels
        self._weight = np.zeros((images, used.shape[1]), np.float32)
        self._weight[found] = np.where(used, (1 / self.classes / count)[levels], 0.0)

    def slopes(
        self, images: np.ndarray, which: np.ndarray, scores: np.ndarray, extra: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the losses [a] and their derivatives [b, a] and [K - 1, a]."""
        share, upper, lower, _, _ = self._densities(images, scores, extra)
        weight = self._weight[np.ix_(images, which)]
        value = -(weight * np.log(share)).sum(axis=0)
        value[(np.diff(extra, axis=0) <= 0).any(axis=0)] = np.inf
        upper, lower = -weight * upper, weight * lower
        return value, -(upper + lower), self._by_threshold(images, upper, lower)

    def curvature(
        self,
        images: np.ndarray,
        which: np.ndarray,
        scores: np.ndarray,
        extra: np.ndarray,
        change: np.ndarray,
        extra_change: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the products [b, a] and [K - 1, a] of the second derivatives with changes."""
        _, upper, lower, above, below = self._densities(images, scores, extra)
        weight = self._weight[np.ix_(images, which)]
        up, down = (ends - change for ends in self._ends(images, extra_change, 0.0))
        both = -upper * lower
        rising = weight * ((upper - (1 - 2 * above)) * upper * up + both * down)
        falling = weight * ((lower + (1 - 2 * below)) * lower * down + both * up)
        return -(rising + falling), self._by_threshold(images, rising, falling)

    def _ends(
        self, images: np.ndarray, thresholds: np.ndarray, beyond: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the thresholds [b, a] above and below each image's class."""
        end = np.full((1, thresholds.shape[1]), beyond)
        bounds = np.concatenate([-end, thresholds, end])
        level = self._level[images]
        return bounds[level + 1], bounds[level]

    def _densities(
        self, images: np.ndarray, scores: np.ndarray, thresholds: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Return the probability P of each image's class, and more, all [b, a].

        With the distribution F and density f of the logistic distribution at the upper threshold u
        and the lower threshold l: P = F(u) - F(l), f(u) / P, f(l) / P, F(u), F(l).
        """
        upper, lower = (ends - scores for ends in self._ends(images, thresholds, np.inf))
        # The difference of two numbers near 1 is that of two numbers near 0.
        share = np.where(
            upper + lower > 0, expit(-lower) - expit(-upper), expit(upper) - expit(lower)
        )
        share = np.maximum(share, 1e-300)
        above, below = expit(upper), expit(lower)
        return share, above * expit(-upper) / share, below * expit(-lower) / share, above, below

    def _by_threshold(self, images: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Return the sums [K - 1, a] of values [b, a] at the upper and lower threshold."""
        member = (self._level[images] == np.arange(self.classes)[:, None]).astype(np.float64)
        return np.asarray((member @ upper)[:-1] + (member @ lower)[1:])


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
