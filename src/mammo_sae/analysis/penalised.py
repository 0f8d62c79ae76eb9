"""Penalised logistic regressions, with a penalty from cross-validation over patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from mammo_sae import statistics as st

Model = Callable[[float], LogisticRegression]


def ridge(penalty: float) -> LogisticRegression:
    """Return a regression with an L2 penalty; `penalty` is its inverse strength."""
    return LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000)


def lasso(penalty: float) -> LogisticRegression:
    """Return a regression with an L1 penalty; `penalty` is its inverse strength."""
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


def rotated(values: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the coordinates [n, r] of `values` [n, f] along the principal directions of `found`.

    The rotation does not change an L2-penalised fit, and it reduces thousands of features to at
    most as many directions as images.
    """
    return values @ principal_directions(values[found]).T


def principal_directions(values: np.ndarray) -> np.ndarray:
    """Return the right singular vectors [r, f] of `values` [n, f], r = min(n, f), largest first."""
    return np.linalg.svd(values, full_matrices=False)[2]
