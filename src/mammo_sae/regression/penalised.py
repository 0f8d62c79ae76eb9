"""Penalised logistic regressions, with a penalty from cross-validation over patients.

Features of a few columns are arrays. Features that may be too large for memory come in blocks
(`mammo_sae.regression.features`), and all targets, folds and penalties are fitted at once, so that
they share each pass over the features.

The import of scikit-learn is slow, and not every step that imports this module needs it. So the
functions that need it import it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from mammo_sae import statistics as st
from mammo_sae.regression.features import Features
from mammo_sae.regression.minimise import minimise
from mammo_sae.regression.newton import PASSES, at_once, minimise_ridge

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

L1_TOLERANCE = 1e-3
"""Largest length of the subgradient of a fit with an L1 penalty, as a share of the penalty."""

MOST_STEPS = 1000

FIRST_FEATURES = 200
"""Features of each regression with an L1 penalty that the first fit uses."""


def ridge(penalty: float) -> LogisticRegression:
    """Return a regression with an L2 penalty; `penalty` is its inverse strength."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000)


def patient_folds(patients: np.ndarray, folds: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (train, held out) positions. No patient is in both."""
    from sklearn.model_selection import GroupKFold

    folds = min(folds, len(np.unique(patients)))
    return GroupKFold(folds).split(patients, groups=patients)


@dataclass(frozen=True)
class Chosen:
    """A regression with the penalty that cross-validation chose.

    Attributes
    ----------
    penalty
        Inverse strength.
    weights : [f]
    intercept
    """

    penalty: float
    weights: np.ndarray
    intercept: float


def best_fits(
    features: Features,
    found: np.ndarray,
    truths: np.ndarray,
    patients: np.ndarray,
    penalties: Sequence[float],
    folds: int,
    *,
    l1: bool,
) -> list[Chosen]:
    """Fit several targets, each with the penalty of highest cross-validated AUROC.

    Parameters
    ----------
    features : [all images, f]
    found : [n]
        Images to fit on, as positions in `features`.
    truths : [n, t] bool
        Labels of each target.
    patients : [n]
    penalties
        Inverse strengths to choose from. If several give the same AUROC, the first is chosen.
    folds
        Number of folds. Each patient is in one fold.
    l1
        Whether the penalty is L1 instead of L2.
    """
    count = truths.shape[1]
    totals = np.zeros((count, len(penalties)))
    for target, held, penalty, scores in _held_out(
        features, found, truths, patients, penalties, folds, l1
    ):
        totals[target, penalty] += st.auroc(scores[held], truths[held, target])
    best = [penalties[place] for place in totals.argmax(axis=1)]
    weights = np.stack([balanced(truths[:, target]) for target in range(count)], axis=1)
    directions, intercepts = _fit(features, found, truths, weights, np.asarray(best), l1)
    return [Chosen(best[t], directions[:, t], intercepts[t]) for t in range(count)]


def _held_out(
    features: Features,
    found: np.ndarray,
    truths: np.ndarray,
    patients: np.ndarray,
    penalties: Sequence[float],
    folds: int,
    l1: bool,
) -> Iterator[tuple[int, np.ndarray, int, np.ndarray]]:
    """Yield (target, held out, penalty, scores [n]) of each target, fold and penalty."""
    jobs = [
        (target, train, held, place)
        for train, held in patient_folds(patients, folds)
        for target in range(truths.shape[1])
        for place in range(len(penalties))
        if 0 < truths[train, target].sum() < len(train)
        and not st.why_not_estimable(truths[held, target], patients[held], 1)
    ]
    step = at_once(features.shape[1])
    for start in range(0, len(jobs), step):
        some = jobs[start : start + step]
        labels = np.stack([truths[:, target] for target, *_ in some], axis=1)
        weights = np.zeros(labels.shape)
        for column, (target, train, _, _) in enumerate(some):
            weights[train, column] = balanced(truths[train, target])
        strengths = np.array([penalties[place] for *_, place in some])
        directions, intercepts = _fit(features, found, labels, weights, strengths, l1)
        scores = features.times(directions)[found] + intercepts
        for column, (target, _, held, place) in enumerate(some):
            yield target, held, place, scores[:, column]


def _fit(
    features: Features,
    found: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    penalties: np.ndarray,
    l1: bool,
) -> tuple[np.ndarray, np.ndarray]:
    fit = sparse_logistic if l1 else logistic
    return fit(features, found, labels, weights, penalties)


def balanced(truth: np.ndarray) -> np.ndarray:
    """Return the weight [n] of each image, as with scikit-learn's ``class_weight="balanced"``."""
    share = truth.mean()
    return np.where(truth, 0.5 / share, 0.5 / (1 - share))


def logistic(
    features: Features,
    found: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    penalties: np.ndarray,
    passes: int = PASSES,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights [f, r] and intercepts [r] of r logistic regressions with an L2 penalty.

    The loss is C times the weighted log loss, plus half the sum of squares of the weights. This is
    the problem of scikit-learn's solver ``lbfgs``.

    Parameters
    ----------
    features : [all images, f]
    found : [n]
        Images to fit on. An image that is there several times counts as often.
    labels, weights : [n, r]
    penalties : [r]
        C of each regression.
    passes
        Largest number of passes over the features, see `mammo_sae.regression.newton`.
    """
    losses = _LogLosses(features.shape[0], found, labels, weights)
    strength = 1 / (penalties * weights.sum(axis=0))
    nothing = np.zeros((1, len(penalties)))
    directions, intercepts = minimise_ridge(features, losses, strength, nothing, passes)
    return directions, intercepts[0]


def sparse_logistic(
    features: Features,
    found: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    penalties: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights [f, r] and intercepts [r] of r logistic regressions with an L1 penalty.

    The loss is C times the weighted log loss, plus the sum of the absolute weights and of the
    absolute intercept. This is the problem of scikit-learn's solver ``liblinear``. The parameters
    are those of `logistic`.

    Most weights are 0. The regressions are fitted on the features with the largest gradients, and
    those that break the conditions of a minimum are added until there are none (the strategy of
    Tibshirani et al. 2012, https://doi.org/10.1111/j.1467-9868.2011.01004.x). The conditions are
    checked on all features, so the result is that of a fit on all of them.
    """
    losses = _LogLosses(features.shape[0], found, labels, weights)
    strength = 1 / (penalties * weights.sum(axis=0))
    directions, intercepts = np.zeros((features.shape[1], len(strength))), np.zeros(len(strength))
    active, more = np.empty(0, np.int64), FIRST_FEATURES
    fitted = False
    while True:
        slopes = partial(_slopes, losses, intercepts[None])
        gradient = features.there_and_back(directions, slopes)
        excess = np.abs(gradient) - (1 + L1_TOLERANCE) * strength
        excess[active] = 0.0
        largest = np.argsort(-excess, axis=0, kind="stable")[:more]
        added = np.unique(largest[np.take_along_axis(excess, largest, axis=0) > 0])
        if fitted and not len(added):
            return directions, intercepts
        active, more = np.union1d(active, added), 2 * more
        start = np.vstack([directions[active], intercepts])
        solved = _orthant_wise(features.columns(active), losses, start, strength)
        directions[active], intercepts, fitted = solved[:-1], solved[-1], True


def _slopes(
    losses: _LogLosses, intercepts: np.ndarray, images: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    return losses.slopes(images, np.arange(scores.shape[1]), scores, intercepts)[1]


def _orthant_wise(
    features: Features, losses: _LogLosses, start: np.ndarray, strength: np.ndarray
) -> np.ndarray:
    """Return the weights and intercepts [f + 1, r] of regressions with an L1 penalty."""

    def loss(parameters: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, by_extra = np.zeros(len(which)), np.zeros((1, len(which)))

        def between(rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
            found, slope, extra = losses.slopes(rows, which, scores, parameters[-1:])
            np.add(value, found, out=value)
            np.add(by_extra, extra, out=by_extra)
            return slope

        gradient = features.there_and_back(parameters[:-1], between)
        return value, np.vstack([gradient, by_extra])

    absolute = np.tile(strength, (len(start), 1))
    return minimise(loss, start, L1_TOLERANCE * strength, MOST_STEPS, absolute)


class _LogLosses:
    """Weighted log losses of images with an intercept each. The weights of a function sum to 1.

    With labels by finding, an image is there once for each of its rows, and its score is the same
    in all of them. Its loss is then that of the summed weights, and its label is the share of the
    weights of positive rows.
    """

    extras = 1

    def __init__(
        self, images: int, found: np.ndarray, labels: np.ndarray, weights: np.ndarray
    ) -> None:
        weights = weights / weights.sum(axis=0)
        once, place = np.unique(found, return_inverse=True)
        if len(once) < len(found):
            total, positive = np.zeros((2, len(once), weights.shape[1]))
            np.add.at(total, place, weights)
            np.add.at(positive, place, weights * labels)
            labels = np.divide(positive, total, out=np.zeros(total.shape), where=total > 0)
            found, weights = once, total
        self._label = np.zeros((images, labels.shape[1]), labels.dtype)
        self._label[found] = labels
        self._weight = np.zeros((images, labels.shape[1]), np.float32)
        self._weight[found] = weights

    def slopes(
        self, images: np.ndarray, which: np.ndarray, scores: np.ndarray, extra: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the loss [a] and its derivatives [b, a] and [1, a]."""
        label, weight = self._of(images, which)
        score = scores + extra[0]
        value = (weight * (np.logaddexp(0, score) - label * score)).sum(axis=0)
        slope = weight * (expit(score) - label)
        return value, slope, slope.sum(axis=0, keepdims=True)

    def curvature(
        self,
        images: np.ndarray,
        which: np.ndarray,
        scores: np.ndarray,
        extra: np.ndarray,
        change: np.ndarray,
        extra_change: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the products [b, a] and [1, a] of the second derivatives with changes."""
        _, weight = self._of(images, which)
        share = expit(scores + extra[0])
        slope = weight * share * (1 - share) * (change + extra_change[0])
        return slope, slope.sum(axis=0, keepdims=True)

    def _of(self, images: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.ix_(images, which)
        return self._label[place], self._weight[place].astype(np.float64)
