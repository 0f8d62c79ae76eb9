from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mammo_sae.errors import InputError
from mammo_sae.sae import codes
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.settings import JumpReLUVariant, TopKVariant
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import ImageReader


def make_sae(channels: int = 12, latents: int = 40, threshold: bool = False) -> SparseAutoencoder:
    random = torch.Generator().manual_seed(13)
    atoms = torch.randn(latents, channels, generator=random)
    atoms /= atoms.norm(dim=1, keepdim=True)
    return SparseAutoencoder(
        encoder_weight=atoms.clone(),
        encoder_bias=torch.rand(latents, generator=random) / 10 - atoms.sum(dim=1) * 2,
        decoder_weight=atoms,
        decoder_bias=torch.full((channels,), 2.0),
        k=None if threshold else 4,
        threshold=torch.full((latents,), 0.3) if threshold else None,
    )


def run(cohort, sae, folder, layer="head"):
    sae.save(folder / "sae.safetensors", folder / "sae.json")
    codes.run(
        sae=folder / "sae.json",
        embeddings=cohort.manifests,
        image_stores=cohort.image_stores,
        layer=layer,
        store=folder / "codes.zarr",
        manifest=folder / "codes.json",
    )
    return CodesReader(folder / "codes.json")


@pytest.mark.parametrize("threshold", [False, True], ids=["topk", "threshold"])
def test_stored_codes_are_those_of_a_dense_encoding(cohort, tmp_path, threshold, monkeypatch):
    monkeypatch.setattr(codes, "CELLS_PER_BATCH", 60)  # five images a batch: an uneven last one
    # A processor that is fastest in bfloat16 gets the same codes.
    monkeypatch.setattr("mammo_sae.sae.sparse.product_type", lambda _: torch.bfloat16)
    sae = make_sae(threshold=threshold)
    reader = run(cohort, sae, tmp_path)
    assert sorted(reader.image_ids) == sorted(cohort.cells)
    first = ImageReader(cohort.image_stores[:1]).image_ids
    for position, image in enumerate(reader.image_ids):
        x = torch.from_numpy(cohort.cells[image].reshape(12, 12)).double()
        pre = x @ sae.encoder_weight.double().t() + sae.encoder_bias.double()
        if threshold:
            dense = pre * (pre > 0.3)
        else:
            top = pre.topk(4)
            dense = torch.zeros_like(pre).scatter(1, top.indices, top.values.clamp(min=0))
        index, value = reader.cells([position])
        found = np.zeros((12, 40))
        np.add.at(found, (np.arange(12)[:, None], index.reshape(12, -1)), value.reshape(12, -1))
        np.testing.assert_allclose(found, dense.numpy(), rtol=1e-4, atol=1e-5)
        # The breast is the whole image in the first shard, the first column of cells in the other.
        breast = dense if image in first else dense[::3]
        for suffix, part in (("", dense), ("_breast", breast)):
            for name, expected in (
                ("mean", part.mean(dim=0)),
                ("max", part.amax(dim=0)),
                ("active", (part > 0).double().mean(dim=0)),
            ):
                pooled = reader.pooled(f"{name}{suffix}", [image])[0]
                np.testing.assert_allclose(pooled, expected.numpy(), rtol=1e-4, atol=1e-5)


# The possible error of float32 sums of d products, relative to the length of the summands.
TIE = 1e-5


@pytest.mark.parametrize("fastest", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("variant", [TopKVariant(k=8, k_aux=8), JumpReLUVariant(k=8)])
def test_codes_of_a_trained_sae_follow_the_formulas_on_every_processor(
    make_cohort, settings, train_sae, tmp_path, monkeypatch, fastest, variant
):
    """p = W x + b in float64 from the files alone; z = p at the k largest above 0, or above theta.

    Latents whose p is within a float32 sum's error of the limit may go either way.
    """
    monkeypatch.setattr("mammo_sae.sae.sparse.product_type", lambda _: fastest)
    cohort = make_cohort(images=16, channels=64)
    own = settings.model_copy(update={"variant": variant, "latents": 256, "steps": 60})
    description = train_sae(cohort, tmp_path, own)
    tensors = {
        name: tensor.double() for name, tensor in load_file(tmp_path / "sae.safetensors").items()
    }
    codes.run(
        sae=description, embeddings=cohort.manifests, image_stores=cohort.image_stores,
        layer="head", store=tmp_path / "codes.zarr", manifest=tmp_path / "codes.json",
    )  # fmt: skip
    reader = CodesReader(tmp_path / "codes.json")
    for position, image in enumerate(reader.image_ids):
        x = torch.from_numpy(cohort.cells[image].reshape(12, 64)).double()
        pre = x @ tensors["encoder_weight"].t() + tensors["encoder_bias"]
        if "threshold" in tensors:
            limit = tensors["threshold"].expand_as(pre)
        else:
            limit = pre.topk(8).values[:, -1:].clamp(min=0).expand_as(pre)
        length = x.norm(dim=1, keepdim=True) * tensors["encoder_weight"].norm(dim=1)
        index, value = reader.cells([position])
        found = torch.zeros_like(pre)
        found.scatter_add_(
            1, torch.from_numpy(index.reshape(12, -1)).long(),
            torch.from_numpy(value.reshape(12, -1)).double(),
        )  # fmt: skip
        sure = (pre - limit).abs() > TIE * length
        at_limit = pre >= limit if "threshold" not in tensors else pre > limit
        assert torch.equal((found > 0)[sure], (at_limit & (pre > 0))[sure])
        active = found > 0
        assert ((found - pre).abs()[active] <= TIE * length[active]).all()
        assert active.sum() > 0


def test_an_image_without_breast_cells_pools_to_nothing_inside_of_it():
    index = torch.tensor([[1], [2]])
    value = torch.tensor([[3.0], [5.0]])
    pooled = codes.pool(index, value, torch.tensor([[False], [True]]), latents=4)
    assert pooled["max"].tolist() == [[0, 3, 0, 0], [0, 0, 5, 0]]
    for name in ("mean_breast", "max_breast", "active_breast"):
        assert not pooled[name][0].any()
        assert pooled[name][1].any()


def test_an_sae_of_another_width_is_refused(cohort, tmp_path):
    with pytest.raises(InputError, match=r"sae\.json takes 5 channels, but layer head has 12"):
        run(cohort, make_sae(channels=5), tmp_path)
    assert not (tmp_path / "codes.json").exists()


def test_the_sae_of_the_layer_that_is_given_as_advised_encodes_it(cohort, tmp_path):
    with pytest.raises(
        InputError, match=r"takes 5 channels, .* has 12; give the SAE of this layer"
    ):
        run(cohort, make_sae(channels=5), tmp_path)
    reader = run(cohort, make_sae(channels=12), tmp_path)
    assert sorted(reader.image_ids) == sorted(cohort.cells)


def test_the_same_sae_gives_the_same_store(cohort, tmp_path):
    manifests = []
    for name in ("one", "two"):
        run(cohort, make_sae(), tmp_path / name)
        manifests.append((tmp_path / name / "codes.json").read_text())
    assert manifests[0] == manifests[1]


def test_a_gpu_too_small_for_a_batch_gives_the_same_store_in_parts(cohort, tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    run(cohort, make_sae(), tmp_path / "whole")
    encoder, sizes = SparseAutoencoder.encoder, []

    def small(self):
        encode = encoder(self)

        def limited(cells):
            sizes.append(len(cells))
            if len(cells) > 24:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return encode(cells)

        return limited

    monkeypatch.setattr(SparseAutoencoder, "encoder", small)
    run(cohort, make_sae(), tmp_path / "parts")
    assert max(sizes) > 24
    whole, parts = (tmp_path / name / "codes.json" for name in ("whole", "parts"))
    assert whole.read_text() == parts.read_text()
