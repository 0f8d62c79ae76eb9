from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mammo_sae import statistics
from mammo_sae.analysis import sae_quality
from mammo_sae.analysis.cases import Identity
from mammo_sae.analysis.settings import QualitySettings
from mammo_sae.encoders import import_encoder
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.encoders.network import load_encoder
from mammo_sae.encoders.networks.network import to_map
from mammo_sae.encoders.settings import PretrainedSettings, RandomSource
from mammo_sae.errors import InputError
from mammo_sae.sae import codes
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.tables import read_table, write_table
from small_cohort import write_cohort

SETTINGS = QualitySettings(bootstrap_draws=20)
CONCEPT = "mass"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    import_encoder.run(
        PretrainedSettings(source=RandomSource(kind="random", architecture="efficientnet-lite0")),
        weights=folder / "encoder.safetensors",
        description=folder / "encoder.json",
    )
    return folder


def axis_sae(channels: int, kept: int, centre: float = 2.0) -> SparseAutoencoder:
    """Latents 2j and 2j + 1 are channel j above and below the centre; `kept` of them fire."""
    atoms = torch.eye(channels).repeat_interleave(2, dim=0)
    atoms[1::2] *= -1
    return SparseAutoencoder(
        encoder_weight=atoms.clone(),
        encoder_bias=-atoms.sum(dim=1) * centre,
        decoder_weight=atoms,
        decoder_bias=torch.full((channels,), centre),
        k=kept,
    )


def score(cohort, encoder, folder, sae, layer):
    """Label the cohort, give it a head, encode, score; return the table's row."""
    table = pd.read_parquet(cohort.images)
    random = np.random.default_rng(14)
    table["patient_id"] = table["image_id"].str[-2:]
    table[CONCEPT] = pd.array(random.permutation(np.arange(len(table)) % 2), dtype="Int8")
    write_table(table, cohort.images)
    width = load_encoder(encoder).head.bias.shape[0]
    weight = random.normal(size=(1, width)).astype(np.float32)
    head = Head(weight, np.zeros(1, np.float32), (CONCEPT,))
    save_head(head, folder / "head/head.safetensors", folder / "head/head.json")
    sae.save(folder / "sae.safetensors", folder / "sae.json")
    codes.run(
        sae=folder / "sae.json",
        embeddings=cohort.manifests,
        image_stores=cohort.image_stores,
        layer=layer,
        store=folder / "codes.zarr",
        manifest=folder / "codes.json",
    )
    sae_quality.run(
        SETTINGS,
        identity=Identity("pretrained", layer, "topk", 0),
        images=cohort.images,
        sae=folder / "sae.json",
        codes=folder / "codes.json",
        encoder=encoder,
        head=folder / "head",
        embeddings=cohort.manifests,
        output=folder / "quality.parquet",
    )
    found = read_table(folder / "quality.parquet")
    assert len(found) == 1
    return found.iloc[0], head, table


@pytest.fixture
def make_cohort(tmp_path):
    return partial(write_cohort, tmp_path)


@pytest.fixture
def blocks_14(make_cohort):
    return make_cohort(images=100, channels=192, layer="blocks.14")


def test_an_sae_that_loses_nothing_costs_nothing(blocks_14, encoder, tmp_path):
    row, _, _ = score(blocks_14, encoder, tmp_path, axis_sae(192, 192), "blocks.14")
    assert row["explained_variance"] == pytest.approx(1, abs=1e-6)
    assert row[f"logit_mse_{CONCEPT}"] < 1e-6 * row[f"logit_variance_{CONCEPT}"]
    assert row[f"auroc_lost_{CONCEPT}"] == pytest.approx(0, abs=1e-9)
    assert (row["encoder"], row["layer"], row["sae"], row["seed"]) == (
        "pretrained", "blocks.14", "topk", 0,
    )  # fmt: skip


def test_figures_of_a_lossy_sae_follow_their_definitions(blocks_14, encoder, tmp_path):
    sae = axis_sae(192, 12)
    row, head, table = score(blocks_14, encoder, tmp_path, sae, "blocks.14")
    test = blocks_14.splits["test"]
    maps = np.stack([blocks_14.cells[image] for image in sorted(test)]).astype(np.float32)
    x = torch.from_numpy(maps.reshape(-1, 192))
    deviation = x - 2
    kept = deviation.abs().topk(12).indices
    rebuilt = torch.zeros_like(x).scatter(1, kept, deviation.gather(1, kept)) + 2

    centred = x - x.mean(dim=0)
    explained = 1 - (x - rebuilt).square().sum() / centred.square().sum()
    assert row["explained_variance"] == pytest.approx(float(explained), abs=2e-3)
    active = torch.zeros(len(x), 192).scatter(1, kept, 1.0) * (deviation != 0)
    assert row["l0"] == pytest.approx(float(active.sum(dim=1).mean()), abs=0.05)
    fires = torch.stack([active * (deviation > 0), active * (deviation < 0)], dim=2).mean(dim=0)
    assert row["dead_share"] == pytest.approx(float((fires == 0).double().mean()), abs=0.02)
    assert sum(row["density_histogram"]) == round((1 - row["dead_share"]) * 384)

    # Cells were drawn independently, so no map is smooth and no latent prefers a kind of image.
    assert row["autocorrelation_q50"] == pytest.approx(-1 / 11, abs=0.1)
    assert row["monosemanticity_q50"] == pytest.approx(row["monosemanticity_shuffled_q50"], abs=0.1)

    network = load_encoder(encoder)
    labels = table.set_index("image_id")[CONCEPT].loc[sorted(test)].to_numpy(dtype=int)
    for name, cells in ((f"auroc_{CONCEPT}", x), (f"auroc_spliced_{CONCEPT}", rebuilt)):
        pooled = network.rest("blocks.14", to_map(cells.view(maps.shape))).numpy()
        expected = statistics.auroc(head.logits(pooled)[:, 0], labels)
        assert row[name] == pytest.approx(expected, abs=0.02)
    lost = row[f"auroc_{CONCEPT}"] - row[f"auroc_spliced_{CONCEPT}"]
    assert row[f"auroc_lost_{CONCEPT}"] == pytest.approx(lost)
    assert row[f"auroc_lost_{CONCEPT}_low"] <= lost <= row[f"auroc_lost_{CONCEPT}_high"]


def test_baselines_keep_as_many_coefficients_as_the_sae(blocks_14, encoder, tmp_path):
    row, _, _ = score(blocks_14, encoder, tmp_path, axis_sae(192, 12), "blocks.14")
    count = round(row["l0"])

    def stacked(split):
        cells = np.stack([blocks_14.cells[image] for image in blocks_14.splits[split]])
        return cells.reshape(-1, 192).astype(np.float64)

    training, x = stacked("training"), stacked("test")
    mean = training.mean(axis=0)
    components = np.linalg.svd(training - mean, full_matrices=False)[2][:count]
    variance = np.square(x - x.mean(axis=0)).sum()
    deviation = x - mean
    missed = np.square(deviation - deviation @ components.T @ components).sum()
    assert row["explained_variance_pca"] == pytest.approx(1 - missed / variance, abs=1e-3)
    small = np.sort(np.square(deviation), axis=1)[:, : 192 - count].sum()
    assert row["explained_variance_channels"] == pytest.approx(1 - small / variance, abs=1e-3)


def test_many_training_cells_give_components_of_evenly_spaced_ones(blocks_14, monkeypatch):
    reader = EmbeddingReader(blocks_14.manifests, blocks_14.layer)
    assert sae_quality.sampled(reader) == reader.image_ids
    monkeypatch.setattr(sae_quality, "PCA_IMAGES", 3)
    places = np.linspace(0, len(reader) - 1, 3).round().astype(int)
    expected = [reader.image_ids[i] for i in places]
    assert sae_quality.sampled(reader) == expected
    sample = EmbeddingReader(blocks_14.manifests, blocks_14.layer, expected)
    cells = np.concatenate([part for _, part in sample.batches(3)])
    cells = cells.reshape(-1, reader.grid.channels)
    monkeypatch.setattr(sae_quality, "PCA_CELLS", len(cells) // 4)
    fitted = sae_quality.Baselines.fit(sample, l0=2)
    some = cells[::4].astype(np.float64)
    np.testing.assert_allclose(fitted.mean, some.mean(axis=0), rtol=1e-4, atol=1e-5)
    _, _, directions = np.linalg.svd(some - some.mean(axis=0), full_matrices=False)
    overlap = fitted.components.numpy() @ directions[:2].T
    np.testing.assert_allclose(np.linalg.svd(overlap)[1], 1, atol=1e-4)


def test_the_head_layer_is_spliced_by_pooling(make_cohort, encoder, tmp_path):
    cohort = make_cohort(images=100, channels=1280, layer="head")
    row, head, _ = score(cohort, encoder, tmp_path, axis_sae(1280, 40), "head")
    test = sorted(cohort.splits["test"])
    pooled = np.stack([cohort.cells[i].astype(np.float64).mean(axis=(0, 1)) for i in test])
    original = head.logits(pooled)[:, 0]
    assert row[f"logit_variance_{CONCEPT}"] == pytest.approx(original.var(), rel=1e-3)
    assert row[f"logit_mse_{CONCEPT}"] > 0


def test_too_few_positives_give_no_number(make_cohort, encoder, tmp_path):
    cohort = make_cohort(images=24, channels=192, layer="blocks.14")
    row, _, _ = score(cohort, encoder, tmp_path, axis_sae(192, 12), "blocks.14")
    assert np.isnan(row[f"auroc_{CONCEPT}"])
    assert np.isnan(row[f"auroc_lost_{CONCEPT}_low"])


def test_codes_of_another_sae_are_refused(blocks_14, encoder, tmp_path):
    score(blocks_14, encoder, tmp_path, axis_sae(192, 12), "blocks.14")
    other = axis_sae(192, 12)
    shorter = {n: t[:-1] for n, t in other.tensors().items() if n != "decoder_bias"}
    SparseAutoencoder(**shorter, decoder_bias=other.decoder_bias, k=12).save(
        tmp_path / "sae.safetensors", tmp_path / "sae.json"
    )
    with pytest.raises(InputError, match=r"codes\.json holds 384 latents .* 383 of"):
        sae_quality.run(
            SETTINGS,
            identity=Identity("pretrained", "blocks.14", "topk", 0),
            images=blocks_14.images,
            sae=tmp_path / "sae.json",
            codes=tmp_path / "codes.json",
            encoder=encoder,
            head=tmp_path / "head",
            embeddings=blocks_14.manifests,
            output=tmp_path / "other.parquet",
        )


def test_codes_that_are_encoded_again_as_advised_are_scored(blocks_14, encoder, tmp_path):
    score(blocks_14, encoder, tmp_path, axis_sae(192, 12), "blocks.14")
    wide = axis_sae(192, 12)
    tensors = {n: t[:-1] for n, t in wide.tensors().items() if n != "decoder_bias"}
    shorter = SparseAutoencoder(**tensors, decoder_bias=wide.decoder_bias, k=12)
    shorter.save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    with pytest.raises(InputError, match=r"383 of blocks\.14; encode again$"):
        sae_quality.run(
            SETTINGS,
            identity=Identity("pretrained", "blocks.14", "topk", 0),
            images=blocks_14.images,
            sae=tmp_path / "sae.json",
            codes=tmp_path / "codes.json",
            encoder=encoder,
            head=tmp_path / "head",
            embeddings=blocks_14.manifests,
            output=tmp_path / "other.parquet",
        )
    row, _, _ = score(blocks_14, encoder, tmp_path, shorter, "blocks.14")
    assert row["layer"] == "blocks.14"
    assert np.isfinite(row[f"logit_mse_{CONCEPT}"])


def test_the_largest_cosine_of_each_atom_is_summarised():
    atoms = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.6, 0.8]])
    # Largest cosines with another atom: 1, 1, 0.8, 0.8.
    found = sae_quality.decoder_cosines(atoms)
    assert found["decoder_cosine_q50"] == pytest.approx(0.9)
    assert found["decoder_cosine_q99"] == pytest.approx(1.0)
