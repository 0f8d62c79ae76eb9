"""Products with standardised features equal those with the array, in memory and in a file."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from mammo_sae import statistics as st
from mammo_sae.errors import InputError
from mammo_sae.regression import features as ft
from scikit_fits import standardised

FOUND = np.r_[np.arange(5, 40), 7, 7]  # the image 7 is there three times


@pytest.fixture(params=["memory", "file"])
def held(request, monkeypatch):
    monkeypatch.setattr(ft, "MEMORY", 1 << 20 if request.param == "memory" else 100)
    monkeypatch.setattr(ft, "BLOCK", 4 * 30 * 11)


def values():
    rng = np.random.default_rng(0)
    array = (rng.random((50, 30)) * (rng.random((50, 30)) < 0.3)).astype(np.float32)
    array[:, 3], array[:, 8], array[FOUND, 9], array[0, 9] = 0.0, 0.7, 0.0, 1.0
    return array


def kinds(array):
    order = np.random.default_rng(1).permutation(len(array))
    yield ft.SparseRows([sparse.csr_array(array)])
    yield ft.SparseRows(array[i : i + 7] for i in range(0, 50, 7))
    yield ft.DenseRows(array[i : i + 7] for i in range(0, 50, 7))
    yield ft.DenseRows((array[order[i : i + 7]] for i in range(0, 50, 7)), order)


def test_products_are_those_of_the_standardised_array(held):
    array, rng = values(), np.random.default_rng(2)
    expected = standardised(array, FOUND)
    for matrix in kinds(array):
        standard = ft.Standardised.over(matrix, FOUND)
        assert standard.shape == expected.shape == (50, 27)
        weights, rows = rng.normal(size=(27, 3)), rng.normal(size=(50, 2))
        # Sparse rows are multiplied in single precision.
        near = {"rtol": 0, "atol": 1e-9 if isinstance(matrix, ft.DenseRows) else 1e-4}
        np.testing.assert_allclose(standard.times(weights), expected @ weights, **near)
        np.testing.assert_allclose(standard.transposed_times(rows), expected.T @ rows, **near)
        curve = standard.there_and_back(
            weights, lambda images, products: images[:, None] * products
        )
        twice = expected.T @ (np.arange(50)[:, None] * (expected @ weights))
        np.testing.assert_allclose(curve / 1000, twice / 1000, **near)
        some = np.array([20, 3])
        columns = standard.columns(some).times(np.eye(2))
        np.testing.assert_allclose(columns, expected[:, some], atol=1e-5)


def test_mean_differences_are_those_of_the_array(held):
    array, truth = values(), np.arange(len(FOUND)) % 3 == 0
    expected = st.standardised_mean_difference(standardised(array, FOUND)[FOUND], truth)
    for matrix in kinds(array):
        standard = ft.Standardised.over(matrix, FOUND)
        truths = np.stack([truth, np.arange(len(FOUND)) == 3], axis=1)
        found = standard.mean_differences(FOUND, truths)
        np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)
        assert np.isnan(found[:, 1]).all()


def test_principal_directions_have_the_variances_of_the_largest_components(held):
    array = values()
    expected = np.linalg.svd(standardised(array, FOUND)[FOUND], compute_uv=False)
    for matrix in kinds(array):
        standard = ft.Standardised.over(matrix, FOUND)
        parts = standard.times(standard.principal(FOUND, 4))[FOUND]
        np.testing.assert_allclose(np.linalg.norm(parts, axis=0), expected[:4], rtol=1e-6)
        assert standard.principal(FOUND, 27).shape == (27, 27)


def test_arrays_may_be_added_after_others_were_read(held):
    parts, arrays = ft.Parts(), [np.full(20, number) for number in range(4)]
    for number in (0, 1):
        parts.append(arrays[number])
    np.testing.assert_array_equal(parts[0], arrays[0])
    for number in (2, 3):
        parts.append(arrays[number])
    for number, expected in enumerate(arrays):
        np.testing.assert_array_equal(parts[number], expected)


def test_a_full_disk_of_temporary_files_is_named_with_the_variable_that_moves_them(monkeypatch):
    class NearlyFull:
        taken = 0

        def write(self, some):
            self.taken += len(some) // 2
            if self.taken >= 150:
                raise OSError(28, "No space left on device")
            return len(some) // 2

    monkeypatch.setattr(ft, "MEMORY", 100)
    monkeypatch.setattr(ft.tempfile, "TemporaryFile", lambda **_: NearlyFull())
    monkeypatch.setattr(ft.tempfile, "gettempdir", lambda: "/the/folder")
    parts = ft.Parts()
    with pytest.raises(
        InputError,
        match=r"/the/folder has no room .* more than .* GiB \(No space left on device\).*TMPDIR",
    ):
        parts.append(np.ones(30))
