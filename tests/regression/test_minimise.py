"""Several functions with an L1 penalty are minimised at once."""

from __future__ import annotations

import numpy as np
import pytest

from mammo_sae.regression import minimise as mi


def quadratic(rng, count):
    """Functions x A x / 2 - b x of 12 parameters, with eigenvalues from 0.01 to 100."""
    basis, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    curve = basis @ np.diag(np.logspace(-2, 2, 12)) @ basis.T
    slope = rng.normal(size=(12, count))

    def loss(x, which):
        products = curve @ x
        value = 0.5 * (x * products).sum(axis=0) - (slope[:, which] * x).sum(axis=0)
        return value, products - slope[:, which]

    return loss, curve, slope


@pytest.mark.parametrize("groups", [1, 2])
def test_an_l1_penalty_leaves_zeros_where_the_gradient_is_smaller_than_it(monkeypatch, groups):
    monkeypatch.setattr(mi, "BYTES", 2 * mi.PAIRS * 8 * 12 * (3 if groups == 1 else 2))
    loss, _, _ = quadratic(np.random.default_rng(1), 3)
    penalty = np.tile([0.5, 1.0, 1e3], (12, 1))
    found = mi.minimise(loss, np.zeros((12, 3)), np.full(3, 1e-8), 2000, penalty)
    _, gradient = loss(found, np.arange(3))
    zero = found == 0
    assert 0 < zero[:, 0].sum() < 12
    assert zero[:, 2].all()
    assert (np.abs(gradient)[zero] <= penalty[zero]).all()
    np.testing.assert_allclose(gradient[~zero], -(penalty * np.sign(found))[~zero], atol=1e-3)
