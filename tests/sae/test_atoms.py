from __future__ import annotations

import numpy as np
import pytest

from mammo_sae.sae import atoms


@pytest.mark.parametrize("size", [64 << 20, 8 * 400 * 7])
def test_random_directions_have_the_mean_and_covariance_of_the_atoms(size, monkeypatch):
    """They are those of one product of all random numbers, whatever the size of the blocks."""
    monkeypatch.setattr(atoms, "DRAWN_BYTES", size)
    rng = np.random.default_rng(0)
    given = (rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + 2).astype(np.float32)
    drawn = atoms.random_directions(given, 3000, seed=3)
    mixing = np.random.default_rng(3).standard_normal((3000, 400))
    mean = given.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(drawn, mean + mixing @ (given - mean) / 20, atol=2e-5)
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.2)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(given.T), rtol=0.15, atol=0.3)
