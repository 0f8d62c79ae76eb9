from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from mammo_sae.sae import pairing
from mammo_sae.sae.atoms import random_directions


def dictionaries(h, g, d, seed=0):
    """Two dictionaries with a common mean; half of the atoms have a noisy counterpart."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=d) / 3
    atoms, others = rng.normal(size=(h, d)) + mean, rng.normal(size=(g, d)) + mean
    shared = min(h, g) // 2
    others[:shared] = atoms[:shared] + rng.random((shared, 1)) * rng.normal(size=(shared, d))
    others = others[rng.permutation(g)]
    return tuple(pairing.unit(part.astype(np.float32)) for part in (atoms, others))


def best(atoms, others):
    cosine = (atoms @ others.T).astype(np.float64)
    return cosine[linear_sum_assignment(cosine, maximize=True)].mean()


@pytest.mark.parametrize("sizes", [(600, 600), (300, 700), (700, 300), (5, 900), (1, 1)])
@pytest.mark.parametrize("candidates", [1, 3, 32])
def test_the_pairing_is_the_best_one_whatever_the_first_candidates(sizes, candidates, monkeypatch):
    monkeypatch.setattr(pairing, "CANDIDATES", candidates)
    monkeypatch.setattr(pairing, "BLOCK_BYTES", 64 << 10)  # many blocks
    atoms, others = dictionaries(*sizes, 24)
    found = pairing.matched_cosines(atoms, others)
    assert len(found) == min(sizes)
    assert found.mean() == pytest.approx(best(atoms, others), abs=2 * pairing.TOLERANCE)


def test_the_bound_holds_for_the_best_pairing_of_few_candidates(monkeypatch):
    """The pairing of the first round is worse than the best one, and by less than the bound."""
    monkeypatch.setattr(pairing, "CANDIDATES", 2)
    monkeypatch.setattr(pairing, "TOLERANCE", np.inf)  # one round
    bounds = []
    shortfall = pairing._shortfall

    def kept(*arguments):
        bounds.append(shortfall(*arguments))
        return bounds[-1]

    monkeypatch.setattr(pairing, "_shortfall", kept)
    atoms, others = dictionaries(500, 500, 24)
    lost = best(atoms, others) - pairing.matched_cosines(atoms, others).mean()
    assert 1e-4 < lost <= bounds[0][0] / 500


def test_the_bound_of_the_best_pairing_is_zero():
    atoms, others = dictionaries(60, 60, 8)
    edges = np.arange(3600)
    cosines = (atoms @ others.T).astype(np.float64).ravel()
    match = pairing._assigned(edges, cosines, 60, 60)
    paired = cosines[np.arange(60) * 60 + match]
    prices = pairing._prices(edges, cosines, match, paired, 60)
    assert (prices >= 0).all()
    bound, _ = pairing._shortfall(atoms, others, prices, paired - prices[match])
    assert bound < 1e-4


def test_a_dictionary_in_another_order_is_the_same():
    random = np.random.default_rng(0)
    atoms = random.normal(size=(20, 8)).astype(np.float32)
    other = 3 * atoms[random.permutation(20)]
    null = pairing.unit(random_directions(other, 20, 0))
    atoms, other = pairing.unit(atoms), pairing.unit(other)
    np.testing.assert_allclose(pairing.matched_cosines(atoms, other), 1, atol=1e-6)
    assert pairing.matched_cosines(atoms, null).mean() < 0.8


def test_no_atom_is_matched_twice():
    atoms = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    other = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert sorted(pairing.matched_cosines(atoms, other)) == pytest.approx([0, 1])


def test_atoms_of_length_zero_have_cosine_zero_and_no_atoms_have_no_pair():
    atoms = pairing.unit(np.array([[0.0, 0.0], [0.0, 2.0]], np.float32))
    assert sorted(pairing.matched_cosines(atoms, atoms)) == pytest.approx([0, 1])
    assert len(pairing.matched_cosines(atoms, atoms[:0])) == 0


def test_the_matrix_of_all_cosines_is_never_in_memory(monkeypatch):
    monkeypatch.setattr(pairing, "BLOCK_BYTES", 1 << 20)
    atoms, others = dictionaries(3000, 3000, 16)
    tracemalloc.start()
    try:
        pairing.matched_cosines(atoms, others)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3000 * 3000 * 4
