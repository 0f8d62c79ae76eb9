"""Dictionaries that are computed from cells at once, against closed forms in numpy."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from mammo_sae.errors import InputError
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.score import row_without_steps
from mammo_sae.sae.settings import ChannelsVariant, NMFVariant, PCAVariant, SaeTraining
from mammo_sae.sae.trainer import centre_and_scale
from mammo_sae.sae.variants.base import Start
from mammo_sae.sae.variants.choice import computed_sae
from mammo_sae.sae.variants.nmf import RIDGE, factorised, ridge

D, N = 9, 600


def cells() -> torch.Tensor:
    """Correlated raw cells with a mean, [600, 9]."""
    random = torch.Generator().manual_seed(8)
    mixed = torch.randn(N, D, generator=random) @ torch.randn(D, D, generator=random)
    return mixed + torch.linspace(-3, 5, D)


def non_negative() -> torch.Tensor:
    """Raw cells made of 2 of 6 non-negative atoms each, [600, 9]."""
    random = torch.Generator().manual_seed(9)
    atoms = torch.rand(6, D, generator=random) * (torch.rand(6, D, generator=random) < 0.5)
    codes = torch.rand(N, 6, generator=random) + 0.5
    used = torch.rand(N, 6, generator=random).topk(2).indices
    return (codes * torch.zeros_like(codes).scatter(1, used, 1.0)) @ atoms


def made(variant, x: torch.Tensor, latents: int = 2 * D, seed: int = 0) -> SparseAutoencoder:
    settings = SaeTraining(variant=variant, latents=latents, seed=seed)
    mean, scale = centre_and_scale(x)
    return computed_sae(settings, Start((x - mean) * scale, scale)).folded(mean, scale)


def dense(sae: SparseAutoencoder, x: torch.Tensor) -> np.ndarray:
    index, value = sae.encoder()(x)
    return torch.zeros(len(x), sae.latents).scatter_add(1, index, value).numpy()


def largest(projections: np.ndarray, k: int) -> np.ndarray:
    """The k largest entries of each row that are above 0; 0 elsewhere."""
    kept = np.zeros_like(projections)
    for row, own in zip(kept, projections, strict=True):
        chosen = np.argsort(-own)[:k]
        row[chosen] = np.maximum(own[chosen], 0)
    return kept


def missed(sae: SparseAutoencoder, x: torch.Tensor) -> float:
    return float((x - sae.decode(*sae.encoder()(x))).square().sum())


@pytest.mark.parametrize("k", [1, 4, 2 * D])
def test_the_codes_of_channels_are_the_largest_deviations_from_the_mean(k):
    x = cells()
    sae = made(ChannelsVariant(k=k), x, latents=777)
    assert torch.equal(sae.decoder_weight, torch.cat([torch.eye(D), -torch.eye(D)]))
    away = (x.double() - x.double().mean(dim=0)).numpy()
    expected = largest(np.concatenate([away, -away], axis=1), k)
    np.testing.assert_allclose(dense(sae, x), expected, rtol=1e-5, atol=1e-5)
    if k >= D:
        assert missed(sae, x) < 1e-6 * float(x.square().sum())
    else:
        rest = np.sort(np.abs(away), axis=1)[:, : D - k]
        assert missed(sae, x) == pytest.approx((rest**2).sum(), rel=1e-4)


def test_the_atoms_of_pca_are_the_eigenvectors_of_the_covariance():
    x = cells()
    sae = made(PCAVariant(k=4), x)
    values, vectors = np.linalg.eigh(np.cov(x.double().numpy().T))
    expected = vectors[:, np.argsort(-values)].T
    sign = np.sign(expected[np.arange(D), np.abs(expected).argmax(axis=1)])
    expected *= sign[:, None]
    atoms = sae.decoder_weight.numpy()
    np.testing.assert_allclose(atoms[:D], expected, atol=1e-4)
    np.testing.assert_array_equal(atoms[D:], -atoms[:D])
    away = (x.double() - x.double().mean(dim=0)).numpy() @ expected.T
    codes = largest(np.concatenate([away, -away], axis=1), 4)
    np.testing.assert_allclose(dense(sae, x), codes, rtol=1e-3, atol=1e-3)


def test_all_components_explain_everything_and_the_first_ones_their_eigenvalues():
    x = cells()
    total = float((x - x.mean(dim=0)).square().sum())
    assert 1 - missed(made(PCAVariant(k=2 * D), x), x) / total == pytest.approx(1, abs=1e-6)
    few = made(PCAVariant(k=6), x, latents=6)
    assert few.latents == 6
    values = np.linalg.eigvalsh(np.cov(x.double().numpy().T))[::-1]
    share = values[:3].sum() / values.sum()
    assert 1 - missed(few, x) / total == pytest.approx(share, abs=1e-5)


def test_a_component_has_its_sign_from_its_largest_entry():
    x = cells()
    one, other = made(PCAVariant(k=4), x), made(PCAVariant(k=4), x.flip(0).contiguous())
    torch.testing.assert_close(one.decoder_weight, other.decoder_weight, rtol=0, atol=1e-5)
    first = one.decoder_weight[:D]
    assert (first.gather(1, first.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_more_active_latents_than_latents_are_refused_with_both_numbers():
    with pytest.raises(InputError, match=r"variant\.k = 19 is more than the 18 latents that chan"):
        made(ChannelsVariant(k=19), cells())
    with pytest.raises(InputError, match=r"k = 20 is more than the 18 latents that pca has on 9"):
        made(PCAVariant(k=20), cells(), latents=40)


def test_the_atoms_of_nmf_are_not_negative_and_explain_more_than_channels():
    x = non_negative()
    for k in (1, 2, 3):
        sae = made(NMFVariant(k=k), x, latents=6)
        assert (sae.decoder_weight >= 0).all()
        torch.testing.assert_close(sae.decoder_weight.norm(dim=1), torch.ones(6))
        assert (dense(sae, x) > 0).sum(axis=1).max() <= k
        assert missed(sae, x) <= missed(made(ChannelsVariant(k=k), x), x), k


def test_the_factorisation_is_the_one_of_its_cells():
    x = non_negative()
    atoms, codes = factorised(x, 6, seed=0)
    assert (codes >= 0).all()
    assert float((x - codes @ atoms).square().sum() / x.square().sum()) < 0.05


def test_the_decoder_bias_of_nmf_leaves_a_rest_with_mean_0():
    x = non_negative()
    sae = made(NMFVariant(k=2), x, latents=6)
    rest = (x - sae.decode(*sae.encoder()(x))).mean(dim=0)
    torch.testing.assert_close(rest, torch.zeros(D), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # scikit-learn divides 0 by 0
def test_a_latent_without_a_part_in_the_factorisation_is_never_active():
    x = torch.zeros(40, 4)
    atoms, codes = factorised(x, 2, seed=0)
    assert torch.equal(atoms, torch.full((2, 4), 0.5))
    assert not codes.any()
    weight, bias = ridge(torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), codes)
    assert not weight.any()
    assert not bias.any()


def test_ridge_is_the_closed_form_with_a_free_bias():
    random = np.random.default_rng(4)
    x, z = random.normal(size=(50, 4)) + 2, random.normal(size=(50, 3))
    weight, bias = ridge(torch.from_numpy(x).float(), torch.from_numpy(z).float())
    ones = np.hstack([x, np.ones((50, 1))])
    penalty = 50 * RIDGE * np.diag([1, 1, 1, 1, 0])
    expected = np.linalg.solve(ones.T @ ones + penalty, ones.T @ z)
    np.testing.assert_allclose(weight.numpy().T, expected[:4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), expected[4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", [ChannelsVariant(k=3), PCAVariant(k=3), NMFVariant(k=3)])
def test_the_same_cells_give_the_same_bits(variant):
    x = cells()
    one, two = made(variant, x).tensors(), made(variant, x).tensors()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def test_the_row_of_the_log_has_the_scores_on_the_cells():
    x = cells()
    sae = made(ChannelsVariant(k=2), x)
    row = row_without_steps(sae, x)
    assert row["error"] == row["loss"] == pytest.approx(missed(sae, x) / x.numel(), rel=1e-5)
    total = float((x - x.mean(dim=0)).square().sum())
    assert row["explained_variance"] == pytest.approx(1 - missed(sae, x) / total, rel=1e-5)
    codes = dense(sae, x)
    assert row["l0"] == pytest.approx((codes > 0).sum() / N, rel=1e-6)
    assert row["dead_share"] == pytest.approx((codes == 0).all(axis=0).mean())
    assert (row["step"], row["lr"]) == (0, 0)


@pytest.mark.parametrize(("variant", "latents"), [(ChannelsVariant, 18), (PCAVariant, 40)])
def test_as_many_active_latents_as_the_message_counts_are_possible(variant, latents):
    with pytest.raises(InputError) as refused:
        made(variant(k=20), cells(), latents=latents)
    most = re.search(
        r"variant\.k = 20 is more than the (\d+) latents .*; lower it", str(refused.value)
    )
    assert made(variant(k=int(most[1])), cells(), latents=latents).k == 18
