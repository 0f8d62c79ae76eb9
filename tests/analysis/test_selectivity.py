from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from mammo_sae.analysis import selectivity
from mammo_sae.analysis.selectivity import Autocorrelation
from mammo_sae.regression.features import DenseRows


def sparse(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return dense codes [n, R, C, h] as index, value with a slot per latent."""
    on = maps > 0
    return np.where(on, np.arange(maps.shape[-1]), 0), maps


def monosemanticity(features, activation):
    """Return the scores of features whose images come in two blocks, the later images first."""
    half = len(features) // 2
    order = [*range(half, len(features)), *range(half)]
    rows = DenseRows([features[half:], features[:half]], order)
    return selectivity.monosemanticity(rows, activation)


def test_monosemanticity_is_the_weighted_mean_similarity_of_pairs():
    random = np.random.default_rng(0)
    features, activation = random.normal(size=(7, 3)), random.random((7, 2))
    centred = features - features.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    for latent, found in enumerate(monosemanticity(features, activation)):
        pairs = list(combinations(range(7), 2))
        weight = [activation[i, latent] * activation[j, latent] for i, j in pairs]
        similar = [unit[i] @ unit[j] for i, j in pairs]
        assert found == pytest.approx(np.average(similar, weights=weight))
    shrunk = monosemanticity(features / 1000, activation)
    np.testing.assert_allclose(shrunk, monosemanticity(features, activation))


def test_the_monosemanticity_of_a_latent_of_two_images_is_their_cosine():
    features = np.array([[3.0, 0.0], [3.0, 4.0], [-6.0, -4.0]])  # their mean is 0
    found = monosemanticity(features, np.array([[2.0], [1.0], [0.0]]))
    np.testing.assert_allclose(found, 3 / 5)


def test_a_latent_of_one_image_has_no_monosemanticity():
    assert np.isnan(monosemanticity(np.eye(4), np.eye(4)[:, :1])).all()


def test_autocorrelation_is_morans_i_of_dense_maps():
    random = np.random.default_rng(1)
    maps = random.random((5, 4, 3, 6)) * (random.random((5, 4, 3, 6)) < 0.4)
    found = Autocorrelation(6, 4, 3)
    found.add(*sparse(maps[:2]))
    found.add(*sparse(maps[2:]))
    deviation = maps - maps.mean(axis=(1, 2), keepdims=True)
    down = (deviation[:, 1:] * deviation[:, :-1]).sum(axis=(0, 1, 2))
    right = (deviation[:, :, 1:] * deviation[:, :, :-1]).sum(axis=(0, 1, 2))
    expected = (down + right) / (3 * 3 + 4 * 2) / (np.square(deviation).sum(axis=(0, 1, 2)) / 12)
    np.testing.assert_allclose(found.result(), expected)


def test_a_blob_is_autocorrelated_and_a_chequerboard_the_opposite():
    maps = np.zeros((1, 8, 8, 3))
    maps[0, 2:6, 2:6, 0] = 1
    maps[0, ::2, ::2, 1] = maps[0, 1::2, 1::2, 1] = 1
    found = Autocorrelation(3, 8, 8)
    found.add(*sparse(maps))
    blob, chequers, inactive = found.result()
    assert blob > 0.6
    assert chequers == pytest.approx(-1)
    assert np.isnan(inactive)


def test_a_grid_of_one_cell_has_no_autocorrelation():
    found = Autocorrelation(2, 1, 1)
    found.add(*sparse(np.ones((3, 1, 1, 2))))
    assert np.isnan(found.result()).all()
