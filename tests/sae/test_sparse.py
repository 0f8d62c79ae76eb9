from __future__ import annotations

import sys

import pytest
import torch

import mammo_sae.sae
from mammo_sae.sae import sparse

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("latents", "k"), [(7, 7), (40, 3), (64, 2), (256, 5), (2816, 16)])
def test_the_largest_entries_are_those_of_a_full_sort(latents, k, dtype):
    rows = torch.randn(33, latents, generator=torch.Generator().manual_seed(1)).to(dtype)
    index = sparse.largest(rows, k)
    assert (index.diff(dim=1) > 0).all()
    expected = rows.float().sort(dim=1, descending=True).values[:, :k].clamp(min=0)
    found = rows.float().gather(1, index).sort(dim=1, descending=True).values.clamp(min=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_largest_entries_are_sought_among_few(monkeypatch):
    """Of 2816 entries, twice the maxima of groups of 4; then the members of the best groups."""
    sorted_widths = []
    topk = sparse._topk

    def counted(keys, k):
        sorted_widths.append(keys.shape[1])
        return topk(keys, k)

    monkeypatch.setattr(sparse, "_topk", counted)
    sparse.largest(torch.rand(3, 2816), 16)
    assert sorted_widths == [2816 // 16, 4 * 16, 4 * 16]
    del sorted_widths[:]
    sparse.largest(torch.rand(3, 2817), 16)
    assert sorted_widths == [2817]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_preactivations_are_the_affine_map(dtype):
    random = torch.Generator().manual_seed(2)
    weight, bias = torch.randn(20, 6, generator=random), torch.randn(20, generator=random)
    product = sparse.Preactivations(20, 6, CPU, dtype)
    product.load(weight, bias)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    for n in (5, 9, 3):  # grows, then reuses its memory
        x = torch.randn(n, 6, generator=random)
        torch.testing.assert_close(
            product(x).float(), x @ weight.t() + bias, rtol=0, atol=tolerance
        )


@pytest.mark.parametrize("missing", ["triton", "mammo_sae.sae.kernels"])
def test_only_without_triton_does_torch_compute_the_products(monkeypatch, missing):
    for name in [name for name in sys.modules if name.startswith("mammo_sae.sae.kernels")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(mammo_sae.sae, "kernels", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "triton":
        assert sparse._imported.__wrapped__() is None
    else:
        with pytest.raises(ModuleNotFoundError, match=missing):
            sparse._imported.__wrapped__()


def test_sparse_products_equal_dense_ones():
    random = torch.Generator().manual_seed(3)
    n, d, h, k = 17, 5, 30, 4
    x, weight = torch.randn(n, d, generator=random), torch.randn(h, d, generator=random)
    index = torch.rand(n, h, generator=random).topk(k).indices.sort(dim=1).values
    value = torch.randn(n, k, generator=random)
    dense = torch.zeros(n, h).scatter_(1, index, value)
    close = torch.testing.assert_close
    close(sparse.dots(x, weight, index), (x @ weight.t()).gather(1, index))
    close(sparse.combine(index, value, weight), dense @ weight)
    close(sparse.ByLatent.of(index, h).sum(value, x), dense.t() @ x)
    close(sparse.ByLatent.of(index, h).total(value), dense.sum(dim=0))


def test_sums_by_latent_hold_beyond_16_bit_latents():
    h = 40_000
    index = torch.tensor([[0, 39_999], [32_768, 39_999]])
    value, x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0], [10.0]])
    summed = sparse.ByLatent.of(index, h).sum(value, x)
    assert summed[[0, 32_768, 39_999], 0].tolist() == [1.0, 30.0, 42.0]
    assert summed.count_nonzero() == 3
