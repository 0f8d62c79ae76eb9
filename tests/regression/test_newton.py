"""Several penalised losses are minimised at once, with few passes over ill-conditioned features."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mammo_sae import statistics as st
from mammo_sae.regression import newton
from mammo_sae.regression.features import DenseRows, SparseRows, Standardised
from mammo_sae.regression.penalised import balanced, logistic
from scikit_fits import standardised

PENALTIES = (1e-3, 1e-1, 10.0)


def ill_conditioned(rng, images=250, latents=600):
    """Codes of a few causes, mostly 0, and a label. The Hessian's condition is above 10^4."""
    causes = rng.exponential(size=(images, 6)) * (rng.random((images, 6)) < 0.5)
    shares = rng.exponential(size=(6, latents)) * (rng.random((6, latents)) < 0.3)
    codes = causes @ shares * (1 + 0.03 * rng.normal(size=(images, latents)))
    codes[rng.random(codes.shape) < 0.3] = 0.0
    score = causes[:, 0] - causes[:, 1] + 0.5 * rng.normal(size=images)
    return codes.astype(np.float32), score > np.quantile(score, 0.7)


def fitted(codes, truth, kind, passes=newton.PASSES):
    found = np.arange(0, len(codes), 2)
    matrix = SparseRows([codes]) if kind is SparseRows else DenseRows([codes])
    features = Standardised.over(matrix, found)
    labels = np.tile(truth[found, None], len(PENALTIES))
    weights = np.tile(balanced(truth[found])[:, None], len(PENALTIES))
    penalties = np.array(PENALTIES)
    directions, intercepts = logistic(features, found, labels, weights, penalties, passes)
    return found, features.times(directions) + intercepts


@pytest.mark.parametrize("kind", [SparseRows, DenseRows])
def test_ill_conditioned_regressions_have_the_scores_of_scikit_learn(kind):
    """The tolerance is 1 % of the scores' standard deviation, and 0.001 of the AUROC."""
    codes, truth = ill_conditioned(np.random.default_rng(0))
    found, scores = fitted(codes, truth, kind)
    array = standardised(codes, found)
    gram = array[found].T @ array[found] * PENALTIES[-1] / 4
    assert np.linalg.eigvalsh(gram)[-1] > 1e4
    for column, penalty in enumerate(PENALTIES):
        model = LogisticRegression(
            C=penalty, class_weight="balanced", solver="newton-cg", tol=1e-10, max_iter=1000
        ).fit(array[found], truth[found])
        expected = model.decision_function(array)
        np.testing.assert_allclose(scores[:, column], expected, atol=0.01 * expected.std())
        assert abs(st.auroc(scores[:, column], truth) - st.auroc(expected, truth)) < 0.001


def test_functions_in_groups_have_the_minima_of_functions_at_once(monkeypatch):
    codes, truth = ill_conditioned(np.random.default_rng(1))
    _, together = fitted(codes, truth, DenseRows)
    monkeypatch.setattr(newton, "BYTES", 1)
    _, alone = fitted(codes, truth, DenseRows)
    np.testing.assert_allclose(alone, together, atol=0.01 * together.std())


def test_a_fit_takes_few_passes_over_the_features(monkeypatch):
    """L-BFGS takes several hundred for the same problem."""
    codes, truth = ill_conditioned(np.random.default_rng(2))
    passes = []
    plain = Standardised.there_and_back

    def counted(self, weights, between):
        passes.append(weights.shape[1])
        return plain(self, weights, between)

    monkeypatch.setattr(Standardised, "there_and_back", counted)
    fitted(codes, truth, SparseRows)
    assert len(passes) < 250
    assert passes[-1] < len(PENALTIES)  # those that are minimised take part no more


def test_a_regression_that_does_not_converge_gives_a_warning():
    codes, truth = ill_conditioned(np.random.default_rng(3))
    message = "3 of 3 regressions have not converged after 3 passes"
    with pytest.warns(newton.NotMinimised, match=message):
        fitted(codes, truth, DenseRows, passes=3)
