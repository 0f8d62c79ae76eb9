"""Cells with a much longer embedding than others, as vision transformers make them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mammo_sae.analysis.cells import stream_active
from mammo_sae.errors import InputError
from mammo_sae.sae import codes
from mammo_sae.sae.high_norm import all_norms, norm_limit, norms
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.settings import PCAVariant, PublishedVariant, SaeTraining
from mammo_sae.sae.train_sae import _same_cells
from mammo_sae.sae.training_cells import kept_cells
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import EmbeddingReader
from small_cohort import write_cohort

DIRECTION = np.zeros(12)
DIRECTION[3] = 1.0


@pytest.fixture
def planted(make_cohort):
    """A cohort whose first cell of every image is ten times as long as other cells."""
    return make_cohort(planted=80 * DIRECTION)


def with_limit(settings, **changes) -> SaeTraining:
    return settings.model_copy(update={"high_norm": 4.0, **changes})


def stored(cohort, split: str) -> np.ndarray:
    """The cells [n, 12, d] of a split, as float32."""
    return np.stack([cohort.cells[i].reshape(12, -1) for i in cohort.splits[split]]).astype(
        np.float32
    )


def test_the_norm_of_a_cell_is_its_euclidean_length():
    cells = np.zeros((1, 1, 2, 3), np.float16)
    cells[0, 0, 1] = [30, 40, 0]
    assert norms(cells).tolist() == [[0.0, 50.0]]
    # The squares are too large for float16.
    assert norms(np.full((1, 1, 1, 4), 1000, np.float16)).item() == 2000.0


def test_cells_above_the_limit_are_left_out_of_training(planted, train_sae, settings, tmp_path):
    sae = SparseAutoencoder.load(train_sae(planted, tmp_path, with_limit(settings)))
    found = np.linalg.norm(stored(planted, "training"), axis=-1)
    limit = 4.0 * np.median(found)
    assert (found > limit).nonzero()[1].tolist() == [0] * 18
    assert sae.description["norm_limit"] == pytest.approx(limit, rel=1e-5)
    assert sae.description["cells"] == 18 * 11


def test_only_without_the_limit_latents_are_spent_on_the_artefact(
    planted, train_sae, settings, tmp_path
):
    nearest = {}
    for name, own in (("all", settings), ("short", with_limit(settings))):
        sae = SparseAutoencoder.load(train_sae(planted, tmp_path / name, own))
        nearest[name] = (sae.decoder_weight.numpy() @ DIRECTION).max()
    assert nearest["all"] > 0.85
    assert nearest["short"] < 0.75


def test_a_computed_sae_leaves_them_out_too(planted, train_sae, settings, tmp_path):
    own = with_limit(settings, variant=PCAVariant(name="pca", k=4), latents=24)
    sae = SparseAutoencoder.load(train_sae(planted, tmp_path, own))
    x = stored(planted, "training")[:, 1:].reshape(-1, 12)
    torch.testing.assert_close(
        sae.decoder_bias, torch.from_numpy(x.mean(axis=0)), rtol=1e-4, atol=1e-4
    )


def test_by_default_no_cell_is_left_out(planted, train_sae, tmp_path):
    sae = SparseAutoencoder.load(train_sae(planted, tmp_path))
    assert sae.description["cells"] == 18 * 12
    assert "norm_limit" not in sae.description


def encoded(cohort, sae: SparseAutoencoder, folder) -> CodesReader:
    sae.save(folder / "sae.safetensors", folder / "sae.json")
    codes.run(
        sae=folder / "sae.json", embeddings=cohort.manifests, image_stores=cohort.image_stores,
        layer="head", store=folder / "codes.zarr", manifest=folder / "codes.json",
    )  # fmt: skip
    return CodesReader(folder / "codes.json")


def test_scores_leave_them_out_and_means_over_all_cells_do_not(planted, tmp_path, monkeypatch):
    monkeypatch.setattr(codes, "CELLS_PER_BATCH", 60)
    random = torch.Generator().manual_seed(13)
    atoms = torch.nn.functional.normalize(torch.randn(20, 12, generator=random))
    sae = SparseAutoencoder(atoms.clone(), torch.ones(20), atoms, torch.zeros(12), k=4)
    limited = SparseAutoencoder(**sae.tensors(), k=4, description={"norm_limit": 40.0})
    plain, short = (
        encoded(planted, one, tmp_path / name) for one, name in ((sae, "all"), (limited, "short"))
    )
    assert plain.image_ids == short.image_ids
    for position, image in enumerate(plain.image_ids):
        index, value = short.cells([position])
        # The codes themselves stay.
        assert np.array_equal(index, plain.cells([position])[0])
        assert np.array_equal(value, plain.cells([position])[1])
        dense = np.zeros((12, 20))
        np.add.at(dense, (np.arange(12)[:, None], index.reshape(12, -1)), value.reshape(12, -1))
        # The breast is the first column of cells in the second shard, else the whole image.
        second = image in sorted(planted.cells)[1::2]
        breast = dense[3::3] if second else dense[1:]
        expected = {
            "mean": dense.mean(axis=0), "active": (dense > 0).mean(axis=0),
            "max": dense[1:].max(axis=0), "max_breast": breast.max(axis=0),
            "mean_breast": breast.mean(axis=0), "active_breast": (breast > 0).mean(axis=0),
        }  # fmt: skip
        for name, values in expected.items():
            pooled = short.pooled(name, [image])[0]
            np.testing.assert_allclose(pooled, values, rtol=1e-4, atol=1e-5, err_msg=name)
    assert (plain.pooled("max") > short.pooled("max")).any(axis=1).all()


@pytest.mark.parametrize("varying", [False, True])
def test_maps_and_their_scores_leave_them_out_and_interventions_do_not(planted, tmp_path, varying):
    random = torch.Generator().manual_seed(13)
    atoms = torch.nn.functional.normalize(torch.randn(20, 12, generator=random))
    tensors = (atoms.clone(), torch.ones(20), atoms, torch.zeros(12))
    kind = {"threshold": torch.zeros(20)} if varying else {"k": 4}
    sae = SparseAutoencoder(*tensors, **kind, description={"norm_limit": 40.0})
    plain = encoded(planted, SparseAutoencoder(*tensors, **kind), tmp_path / "all")
    short = encoded(planted, sae, tmp_path / "short")
    latents, places = np.arange(20), np.arange(len(short))
    expected = plain.maps(places, latents)
    assert (expected[:, :, 0, 0] > 0).any()
    expected[:, :, 0, 0] = 0
    assert (expected > 0).any(axis=(1, 2, 3)).all()
    assert np.array_equal(short.maps(places, latents), expected)
    assert np.array_equal(short.maps([4, 1], [3]), expected[[4, 1], 3:4])
    for rows, active in stream_active(short, places, latents):
        found = np.zeros((rows.stop - rows.start, 20, 12), np.float32)
        found[active.image, active.which, active.cell] = active.value
        assert np.array_equal(found.reshape(expected[rows].shape), expected[rows])
    assert all(map(np.array_equal, short.cells(places), plain.cells(places)))
    assert np.array_equal(short.maps(places, latents).max(axis=(2, 3)), short.pooled("max"))
    assert not (plain.path / "short").exists()


def test_the_limit_of_an_sae_of_another_encoder_is_that_of_the_cells_it_is_applied_to(
    planted, train_sae, settings, tmp_path
):
    cohort = write_cohort(tmp_path / "other")
    train_sae(cohort, tmp_path / "first", with_limit(settings))
    content = b"".join(
        (tmp_path / "first" / name).read_bytes() for name in ("sae.json", "sae.safetensors")
    )
    variant = PublishedVariant(
        name="published",
        path=(tmp_path / "first").as_posix(),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    for multiple, expected in ((2.0, True), (None, False)):
        own = settings.model_copy(update={"variant": variant, "high_norm": multiple})
        sae = SparseAutoencoder.load(train_sae(planted, tmp_path / str(multiple), own))
        assert ("norm_limit" in sae.description) == expected
        assert sae.description["training"]["variant"]["name"] == "published"
        if expected:
            found = np.linalg.norm(stored(planted, "training"), axis=-1)
            assert sae.description["norm_limit"] == pytest.approx(2 * np.median(found), rel=1e-5)


def test_saes_with_different_limits_are_not_trained_in_one_pass(settings):
    assert _same_cells(with_limit(settings), with_limit(settings, seed=4))
    assert not _same_cells(settings, with_limit(settings))


def test_cells_are_drawn_among_those_below_the_limit(planted):
    reader = EmbeddingReader(planted.manifests, "head")
    short = all_norms(reader) < 40
    assert (~short).nonzero()[1].tolist() == [0] * 24
    assert np.array_equal(kept_cells(reader, [], 1.0, None, short), short)
    kept = kept_cells(reader, planted.image_stores, 0.5, 5, short)
    assert kept.any()
    assert not kept[:, 0].any()
    assert (kept.sum(axis=1) <= 5).all()


def test_a_layer_whose_cells_are_mostly_zero_has_no_usual_norm():
    found = np.array([[0.0, 0.0, 3.0]], np.float32)
    with pytest.raises(
        InputError, match=r"layer head: the median norm of the cells is 0, .* set high_norm to null"
    ):
        norm_limit(found, 4.0, "head")


@pytest.mark.parametrize("value", [1.0, 0.5, -3.0])
def test_a_limit_that_leaves_out_usual_cells_is_refused(value):
    with pytest.raises(ValidationError, match="greater than 1"):
        SaeTraining(high_norm=value)
