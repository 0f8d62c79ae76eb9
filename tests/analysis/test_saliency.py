from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from mammo_sae.analysis import saliency
from mammo_sae.analysis.saliency_maps import CutNetwork, saliency_maps
from mammo_sae.analysis.settings import SaliencySettings
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.grids import LayerGrid
from mammo_sae.stores.embeddings import create_embedding_store
from mammo_sae.stores.tables import read_table

SETTINGS = SaliencySettings(bootstrap_draws=40, permutation_draws=199, images=40, steps=3)
CONCEPTS = ["mass", "suspicious_calcification"]


def network(power=1):
    """A network whose rest is the mean over the cells of the map to a power."""
    return SimpleNamespace(
        dtype=torch.float32,
        description=SimpleNamespace(pooling="mean"),
        rest=lambda layer, maps: (maps.cells**power).mean((2, 3)),
    )


HEAD = Head(
    np.float32([[1.0, -0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]), np.float32([3, 0]), tuple(CONCEPTS)
)


def maps_of(power, steps):
    cells = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32))
    cut = CutNetwork(network(power), HEAD, "head", "mass")
    maps, sums = saliency_maps(cut, cells, None, steps)
    return cells.numpy(), maps, sums


def test_after_a_linear_rest_both_maps_are_the_class_activation_map():
    cells, maps, sums = maps_of(power=1, steps=1)
    share = cells @ HEAD.weight[0] / 15
    for which in (0, 1):
        np.testing.assert_allclose(maps[:, which], np.maximum(share, 0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(sums[:, 0], share.sum(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(sums[:, 1], sums[:, 0], rtol=1e-5)


def test_of_a_cubic_rest_two_nodes_integrate_exactly_and_one_does_not():
    """The logit is sum_c w_c mean_j x_jc^3, so a cell's integral is sum_c w_c x_jc^3 / cells."""
    cells, maps, sums = maps_of(power=3, steps=2)
    share = cells**3 @ HEAD.weight[0] / 15
    np.testing.assert_allclose(maps[:, 1], np.maximum(share, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(sums[:, 0], sums[:, 1], rtol=1e-4)
    slope = 3 * cells**2 * HEAD.weight[0] / 15
    camera = (cells * slope.mean(axis=(1, 2), keepdims=True)).sum(axis=3)
    np.testing.assert_allclose(maps[:, 0], np.maximum(camera, 0), rtol=1e-4, atol=1e-6)
    _, _, rough = maps_of(power=3, steps=1)
    assert np.abs(rough[:, 0] - rough[:, 1]).min() > 0.01


def scored(world, tmp_path, monkeypatch, layer, settings=SETTINGS, concepts=CONCEPTS):
    """Scores of maps whose channel 0 is 2 on the lesion; channel 1, beside it, lowers the logit."""
    lesion = np.zeros((len(world.table), 12, 8), bool)
    lesion[np.arange(len(lesion)), *world.lesion.T] = True
    cells = np.zeros((len(world.table), 12, 8, 4), np.float32)
    cells[..., 0] = 2.0 * lesion
    cells[..., 1] = 1.0 * np.roll(lesion, 1, axis=2)
    grid = LayerGrid(**{**world.grid.__dict__, "layer": layer})
    tmp_path.mkdir(exist_ok=True)
    with create_embedding_store(
        tmp_path / "e",
        tmp_path / "e.json",
        image_ids=world.table["image_id"].tolist(),
        grids=[grid],
    ) as writer:
        writer.write({layer: cells})
    save_head(HEAD, tmp_path / "head.safetensors", tmp_path / "head.json")
    monkeypatch.setattr(saliency, "load_encoder", lambda _: network())
    saliency.run(
        settings,
        encoder_name="finetuned",
        layer=layer,
        images=world.images,
        image_stores=world.image_stores,
        encoder=tmp_path,
        head=tmp_path,
        embeddings=[tmp_path / "e.json"],
        concepts=concepts,
        output=tmp_path / "saliency.parquet",
    )
    return read_table(tmp_path / "saliency.parquet")


def test_a_map_that_is_the_lesion_scores_as_such(world, tmp_path, monkeypatch):
    table = scored(world, tmp_path, monkeypatch, "head")
    mass = table[(table["concept"] == "mass") & (table["size"] == "all")].set_index("method")
    assert set(mass.index) == {"grad_cam", "integrated_gradients"}
    positive = (world.table["split"] == "test") & (world.table["mass"] == 1)
    for _, row in mass.iterrows():
        assert row["images"] == positive.sum()
        assert row["energy_lift"] == pytest.approx(60, rel=1e-5)  # the lesion is 1 / 60 of a breast
        assert row["auprc"] == row["pointing"] == row["fires"] == pytest.approx(1.0)
        assert row["p"] == pytest.approx(1 / 200)
    assert mass.loc["integrated_gradients", "integral_error"] < 1e-5
    assert np.isnan(mass.loc["grad_cam", "integral_error"])
    none = table[table["concept"] == "suspicious_calcification"]
    assert none["reason"].str.contains("no mask or box").all()


def test_inner_layers_use_whole_patients_up_to_the_limit(world, tmp_path, monkeypatch):
    table = scored(world, tmp_path, monkeypatch, "blocks.3", concepts=["mass"])
    rows = table[table["size"] == "all"]
    assert rows["images"].to_list() == [40, 40]
    assert rows["energy_lift"].to_list() == pytest.approx([60, 60], rel=1e-5)
    assert (table["layer"] == "blocks.3").all()
    few = SETTINGS.model_copy(update={"images": 1})
    table = scored(world, tmp_path / "few", monkeypatch, "blocks.3", few, ["mass"])
    assert table["reason"].str.contains(r"at most 1 images with one \(saliency.images\)").all()


def test_a_split_without_images_has_no_row(world, tmp_path, monkeypatch):
    settings = SETTINGS.model_copy(update={"splits": ("validation",)})
    table = scored(world, tmp_path, monkeypatch, "head", settings, ["mass"])
    assert isinstance(table, pd.DataFrame)
    assert table.empty
    assert "energy_lift" in table
