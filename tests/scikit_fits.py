"""Regressions by scikit-learn, in memory, as references for those of `mammo_sae.regression`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from mammo_sae import statistics as st
from mammo_sae.regression.penalised import patient_folds


def standardised(values: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return `values` [n, f] with mean 0 and variance 1 over the images `found`.

    Features that do not vary over these images are left out.
    """
    mean = values[found].mean(axis=0, dtype=np.float64)
    spread = values[found].std(axis=0, dtype=np.float64)
    varies = spread > 1e-12
    return (values[:, varies] - mean[varies]) / spread[varies]


def best_fit(
    features: np.ndarray,
    truth: np.ndarray,
    patients: np.ndarray,
    penalties: Sequence[float],
    folds: int,
    model: Callable[[float], LogisticRegression],
) -> tuple[float, LogisticRegression]:
    """Return the penalty with the highest cross-validated AUROC, and the model fitted with it.

    Each patient is in one fold. `features` is [n, f], `truth` and `patients` are [n].
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
