"""Penalised logistic regressions, with a penalty from cross-validation over patients.

Features of a few columns are arrays. Features that may be too large for memory are a `Product`
(`mammo_sae.analysis.features`), and all targets, folds and penalties are fitted at once, so that
they share each pass over the features.

The import of scikit-learn is slow, and not every step that imports this module needs it. So the
functions that need it import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from mammo_sae import statistics as st
from mammo_sae.analysis.features import Product
from mammo_sae.analysis.minimise import at_once, minimise

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

Model = Callable[[float], "LogisticRegression"]

L2_TOLERANCE = 1e-5
"""Largest gradient of a fit with an L2 penalty, per unit of weight. scikit-learn has the same."""

L1_TOLERANCE = 1e-3
"""Largest length of the subgradient of a fit with an L1 penalty, as a share of the penalty."""

MOST_STEPS = 1000


def ridge(penalty: float) -> LogisticRegression:
    """Return a regression with an L2 penalty; `penalty` is its inverse strength."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000)


def lasso(penalty: float) -> LogisticRegression:
    """Return a regression with an L1 penalty; `penalty` is its inverse strength."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(
        C=penalty,
        l1_ratio=1.0,
        solver="liblinear",
        class_weight="balanced",
        max_iter=200,
        random_state=0,
    )


def best_fit(
    features: np.ndarray,
    truth: np.ndarray,
    patients: np.ndarray,
    penalties: Sequence[float],
    folds: int,
    model: Model,
) -> tuple[float, LogisticRegression]:
    """Return the penalty with the highest cross-validated AUROC, and the model fitted with it.

    Parameters
    ----------
    features : [n, f]
        Features of the images to fit on.
    truth : [n] bool
    patients : [n]
    penalties
        Inverse strengths to choose from. If several give the same AUROC, the first is chosen.
    folds
        Number of folds. Each patient is in one fold.
    """
    totals = np.zeros(len(penalties))
    for train, held in patient_folds(patients, folds):
        one_class = truth[train].all() or not truth[train].any()
        if one_class or st.why_not_estimable(truth[held], patients[held], 1):
            continue
        for i, penalty in enumerate(penalties):
            fitted = model(penalty).fit(features[train], truth[train])
            totals[i] += st.auroc(fitted.decision_function(features[held]), truth[held])
    best = penalties[int(totals.argmax())]
    return best, model(best).fit(features, truth)


def patient_folds(patients: np.ndarray, folds: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (train, held out) positions. No patient is in both."""
    from sklearn.model_selection import GroupKFold

    folds = min(folds, len(np.unique(patients)))
    return GroupKFold(folds).split(patients, groups=patients)


def standardised(values: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return `values` [n, f] with mean 0 and variance 1 over the images `found`.

    Features that do not vary over these images are left out.
    """
    mean = values[found].mean(axis=0, dtype=np.float64)
    spread = values[found].std(axis=0, dtype=np.float64)
    varies = spread > 1e-12
    return (values[:, varies] - mean[varies]) / spread[varies]


def principal_directions(values: np.ndarray) -> np.ndarray:
    """Return the right singular vectors [r, f] of `values` [n, f], r = min(n, f), largest first.

    They are those of the triangular factor of a QR decomposition, to which rows are added in blocks
    (Demmel et al. 2012, https://doi.org/10.1137/080731992).
    """
    features = values.shape[1]
    triangle = values[:features]
    for start in range(features, len(values), features):
        rows = np.concatenate([triangle, values[start : start + features]])
        triangle = np.asarray(np.linalg.qr(rows, mode="r"))
    return np.linalg.svd(triangle, full_matrices=False)[2]


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
    features: Product,
    found: np.ndarray,
    truths: np.ndarray,
    patients: np.ndarray,
    penalties: Sequence[float],
    folds: int,
    *,
    l1: bool,
) -> list[Chosen]:
    """Fit several targets, each with the penalty of highest cross-validated AUROC.

    The choice of a penalty is that of `best_fit`.

    Parameters
    ----------
    features : [all images, f]
    found : [n]
        Images to fit on, as positions in `features`.
    truths : [n, t] bool
        Labels of each target.
    patients : [n]
    penalties, folds
        See `best_fit`.
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
    directions, intercepts = logistic(features, found, truths, weights, np.asarray(best), l1=l1)
    return [Chosen(best[t], directions[:, t], intercepts[t]) for t in range(count)]


def _held_out(
    features: Product,
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
        directions, intercepts = logistic(features, found, labels, weights, strengths, l1=l1)
        scores = features.times(directions)[found] + intercepts
        for column, (target, _, held, place) in enumerate(some):
            yield target, held, place, scores[:, column]


def balanced(truth: np.ndarray) -> np.ndarray:
    """Return the weight [n] of each image, as with scikit-learn's ``class_weight="balanced"``."""
    share = truth.mean()
    return np.where(truth, 0.5 / share, 0.5 / (1 - share))


def logistic(
    features: Product,
    found: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    penalties: np.ndarray,
    *,
    l1: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights [f, r] and intercepts [r] of r logistic regressions.

    The loss is C times the weighted log loss, plus half the sum of squares of the weights or, with
    `l1`, the sum of the absolute weights and of the absolute intercept. These are the problems of
    scikit-learn's solvers ``lbfgs`` (L2) and ``liblinear`` (L1, which penalises the intercept).

    Parameters
    ----------
    features : [all images, f]
    found : [n]
        Images to fit on; an image may be there several times.
    labels, weights : [n, r]
    penalties : [r]
        C of each regression.
    """
    total = weights.sum(axis=0)
    strength = 1 / (penalties * total)
    images = features.shape[0]

    def loss(parameters: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        direction, intercept = parameters[:-1], parameters[-1]
        score = features.times(direction)[found] + intercept
        label, weight = labels[:, which], weights[:, which] / total[which]
        value = (weight * (np.logaddexp(0, score) - label * score)).sum(axis=0)
        slope = _gathered(weight * (expit(score) - label), found, images)
        gradient = np.vstack([features.transposed_times(slope), slope.sum(axis=0)])
        if not l1:
            value += 0.5 * strength[which] * np.square(direction).sum(axis=0)
            gradient[:-1] += strength[which] * direction
        return value, gradient

    start = np.zeros((features.shape[1] + 1, len(penalties)))
    if l1:
        absolute = np.tile(strength, (len(start), 1))
        solved = minimise(loss, start, L1_TOLERANCE * strength, MOST_STEPS, absolute)
    else:
        solved = minimise(loss, start, np.full(len(penalties), L2_TOLERANCE), MOST_STEPS)
    return solved[:-1], solved[-1]


def _gathered(values: np.ndarray, found: np.ndarray, images: int) -> np.ndarray:
    """Return [images, r]: the sum of `values` [n, r] over the rows of each image."""
    result = np.zeros((images, values.shape[1]))
    np.add.at(result, found, values)
    return result
