"""The choice of a penalty by cross-validation over patients."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mammo_sae import statistics as st
from mammo_sae.regression import penalised
from mammo_sae.regression.features import DenseRows, SparseRows, Standardised
from mammo_sae.regression.penalised import (
    balanced,
    best_fits,
    patient_folds,
    ridge,
    sparse_logistic,
)
from scikit_fits import best_fit, standardised


def test_a_fold_with_one_positive_patient_counts_in_the_choice():
    rng = np.random.default_rng(5)
    patients, everything = np.arange(60), np.arange(60)
    truth = np.zeros((60, 1), dtype=bool)
    for _, held in patient_folds(patients, 2):
        truth[held[0]] = True
    matrix = DenseRows([rng.normal(size=(60, 5))])
    fits = penalised._held_out(matrix, everything, truth, patients, (0.1, 1.0), 2, l1=False)
    scored = [(place, truth[held].sum()) for _, held, place, _ in fits]
    assert scored == [(0, 1), (1, 1), (0, 1), (1, 1)]


def sparse_codes(rng, images=200, latents=300):
    """Codes that are mostly 0, the images that are fitted, and two labels of some latents."""
    codes = rng.exponential(size=(images, latents)) * (rng.random((images, latents)) < 0.2)
    codes = codes.astype(np.float32)
    score = codes[:, :5].sum(axis=1) + 0.5 * rng.normal(size=images)
    other = codes[:, 5:8].sum(axis=1) + 0.5 * rng.normal(size=images)
    truths = np.stack([score > np.median(score), other > np.quantile(other, 0.8)], axis=1)
    return codes, np.flatnonzero(rng.random(images) < 0.7), truths


def exact(penalty):
    return ridge(penalty).set_params(tol=1e-8)


def test_several_targets_at_once_have_the_penalty_and_scores_of_scikit_learn():
    """The tolerance is 2 % of the scores' standard deviation, and 0.002 of the AUROC."""
    codes, found, truths = sparse_codes(np.random.default_rng(1))
    matrix = SparseRows([codes])
    features, array = Standardised.over(matrix, found), standardised(codes, found)
    patients, penalties = found // 2, (1e-3, 1e-2, 0.1)
    chosen = best_fits(features, found, truths[found], patients, penalties, 3, l1=False)
    for target, one in enumerate(chosen):
        truth = truths[found, target]
        best, model = best_fit(array[found], truth, patients, penalties, 3, exact)
        assert one.penalty == best
        expected = model.decision_function(array)
        scores = features.times(one.weights[:, None])[:, 0] + one.intercept
        np.testing.assert_allclose(scores, expected, atol=0.02 * expected.std())
        gap = st.auroc(scores, truths[:, target]) - st.auroc(expected, truths[:, target])
        assert abs(gap) < 0.002


@pytest.mark.parametrize("by", ["image", "finding"])
@pytest.mark.parametrize("penalty", [0.03, 0.3])
def test_an_l1_regression_is_the_one_of_liblinear(penalty, by):
    """The tolerance is 1 % of the largest weight; weights below it may be 0 in one of both.

    With labels by finding, images have several rows, and these have different labels.
    """
    rng = np.random.default_rng(2)
    codes, found, truths = sparse_codes(rng)
    if by == "finding":
        found = np.repeat(found, rng.integers(1, 4, len(found)))
    features = Standardised.over(SparseRows([codes]), found)
    array, truth = standardised(codes, found)[found], truths[found, 1]
    if by == "finding":
        truth = truth ^ (rng.random(len(found)) < 0.2)
    weights, intercept = sparse_logistic(
        features, found, truth[:, None], balanced(truth)[:, None], np.array([penalty])
    )
    model = LogisticRegression(
        C=penalty,
        l1_ratio=1.0,
        solver="liblinear",
        class_weight="balanced",
        max_iter=5000,
        tol=1e-8,
        random_state=0,
    ).fit(array, truth)
    expected = model.coef_[0]
    slack = 0.01 * np.abs(expected).max()
    assert 0 < (expected != 0).sum() < len(expected)
    np.testing.assert_allclose(weights[:, 0], expected, atol=slack)
    assert (weights[:, 0] != 0)[np.abs(expected) > slack].all()
    assert intercept[0] == pytest.approx(model.intercept_[0], abs=0.05)
