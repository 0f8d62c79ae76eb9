from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from mammo_sae.proportions import clopper_pearson, interval_of_difference


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (0, 12), (5, 12), (12, 12), (3, 400)])
def test_the_interval_of_a_proportion_is_the_exact_one(hits, count):
    exact = binomtest(hits, count).proportion_ci()
    assert clopper_pearson(hits, count) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_the_interval_of_a_difference_adds_the_distances_to_the_bounds_in_quadrature():
    low, high = interval_of_difference((0.8, 0.77, 0.84), (0.6, 0.57, 0.64))
    assert low == pytest.approx(0.2 - 0.05)  # 0.03 below the first, 0.04 above the second
    assert high == pytest.approx(0.2 + 0.05)


def test_the_interval_of_a_difference_covers_95_percent_of_independent_means():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        means = rng.normal(size=2)  # standard error 1, so the intervals are 1.96 on either side
        first, second = ((mean, mean - 1.96, mean + 1.96) for mean in means)
        low, high = interval_of_difference(first, second)
        covered += low <= 0 <= high
    assert 0.93 < covered / 2000 < 0.97
