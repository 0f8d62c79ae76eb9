from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from mammo_sae.regression import ordinal
from mammo_sae.regression.features import DenseRows
from mammo_sae.regression.ordinal import concordance
from mammo_sae.statistics import auroc


def drawn(rng, n=4000):
    """Four classes by proportional odds along a known direction, thresholds unevenly apart."""
    direction = np.array([1.5, -1.0, 0.0, 0.5])
    features = rng.normal(size=(n, 4))
    below = expit(np.array([-2.0, 0.0, 0.7])[None] - (features @ direction)[:, None])
    return features, (rng.random(n)[:, None] > below).sum(axis=1), direction


def proportional_odds(features, level, penalty):
    everything = np.ones((len(level), 1), bool)
    rows = DenseRows([features])
    found = ordinal.proportional_odds(
        rows, np.arange(len(level)), level, everything, np.array([penalty])
    )
    return found[:, 0]


def test_the_direction_that_made_the_classes_is_found():
    features, level, direction = drawn(np.random.default_rng(0))
    found = proportional_odds(features, level, penalty=100.0)
    np.testing.assert_allclose(found, direction, atol=0.15)


def test_two_classes_give_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    features, level, _ = drawn(np.random.default_rng(1), n=400)
    truth = (level >= 2).astype(int)
    expected = LogisticRegression(C=0.3, class_weight="balanced", tol=1e-8).fit(features, truth)
    found = proportional_odds(features, truth, penalty=0.3)
    np.testing.assert_allclose(found, expected.coef_[0], atol=2e-4)


def test_a_strong_penalty_shrinks_the_direction():
    features, level, _ = drawn(np.random.default_rng(2), n=300)
    weak, strong = (proportional_odds(features, level, c) for c in (10.0, 1e-4))
    assert np.linalg.norm(strong) < 0.1 * np.linalg.norm(weak)


def test_concordance_counts_pairs_of_different_levels():
    rng = np.random.default_rng(3)
    scores, level = rng.integers(0, 6, 60) / 5, rng.integers(0, 4, 60)
    wins = pairs = 0.0
    for i in range(60):
        for j in range(60):
            if level[i] < level[j]:
                pairs += 1
                wins += (scores[i] < scores[j]) + 0.5 * (scores[i] == scores[j])
    assert concordance(scores, level) == pytest.approx(wins / pairs)
    assert concordance(scores, level >= 2) == pytest.approx(auroc(scores, level >= 2))


def test_weights_are_multiplicities():
    rng = np.random.default_rng(4)
    scores, level = rng.random(40), rng.integers(0, 3, 40)
    weights = rng.integers(0, 3, (40, 5))
    drawn_values = concordance(scores, level, weights)
    for draw in range(5):
        again = np.repeat(np.arange(40), weights[:, draw])
        assert drawn_values[draw] == pytest.approx(concordance(scores[again], level[again]))


@pytest.mark.parametrize("penalty", [0.003, 0.3, 30.0])
def test_the_penalised_loss_of_the_docstring_is_minimised(penalty):
    features, level, _ = drawn(np.random.default_rng(3), n=200)
    weight = (len(level) / 4 / np.bincount(level))[level]

    def loss(parameters):
        direction, first, *steps = parameters[:4], *parameters[4:]
        thresholds = np.concatenate([[first], first + np.cumsum(np.exp(steps))])
        bounds = np.concatenate([[-np.inf], thresholds, [np.inf]])
        score = features @ direction
        share = expit(bounds[level + 1] - score) - expit(bounds[level] - score)
        return -(weight * np.log(share)).sum() + direction @ direction / (2 * penalty)

    expected = minimize(loss, np.zeros(7), method="BFGS", options={"gtol": 1e-6}).x[:4]
    found = proportional_odds(features, level, penalty)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_regressions_on_parts_of_the_images_equal_those_of_each_part_alone():
    features, level, _ = drawn(np.random.default_rng(7), n=300)
    used = np.stack([np.arange(300) < 200, np.arange(300) >= 120], axis=1)
    found = ordinal.proportional_odds(
        DenseRows([features]), np.arange(300), level, used, np.array([0.1, 3.0])
    )
    for column, penalty in enumerate((0.1, 3.0)):
        mine = used[:, column]
        alone = proportional_odds(features[mine], level[mine], penalty)
        np.testing.assert_allclose(found[:, column], alone, atol=1e-3)
