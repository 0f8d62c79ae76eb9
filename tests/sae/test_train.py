from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from mammo_sae.errors import InputError, StoreError
from mammo_sae.sae.loader import Cells
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.settings import MammoSaeVariant
from mammo_sae.stores import publish
from mammo_sae.stores.images import ImageReader, ImageRecord, create_image_store
from mammo_sae.stores.publish import read_json
from mammo_sae.stores.tables import read_table, write_table

FILES = ("sae.safetensors", "sae.json", "log.csv")


def test_a_trained_sae_reconstructs_held_out_cells(cohort, train_sae, tmp_path):
    sae = SparseAutoencoder.load(train_sae(cohort, tmp_path / "sae"))
    x = torch.from_numpy(
        np.stack([cohort.cells[i] for i in cohort.splits["test"]]).reshape(-1, 12)
    ).float()
    rest = x - sae.decode(*sae.encoder()(x))
    explained = 1 - rest.square().sum() / (x - x.mean(dim=0)).square().sum()
    assert explained > 0.7
    torch.testing.assert_close(sae.decoder_weight.norm(dim=1), torch.ones(32))


def test_the_same_settings_give_the_same_bytes(cohort, train_sae, tmp_path):
    for folder in ("one", "two"):
        train_sae(cohort, tmp_path / folder)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_another_seed_gives_another_sae(cohort, train_sae, settings, tmp_path):
    train_sae(cohort, tmp_path / "one")
    train_sae(cohort, tmp_path / "two", settings.model_copy(update={"seed": 2}))
    one, two = (read_json(tmp_path / f / "sae.json")["digest"] for f in ("one", "two"))
    assert one != two


def test_the_log_shows_the_run(cohort, train_sae, settings, tmp_path):
    train_sae(cohort, tmp_path)
    log = read_table(tmp_path / "log.csv")
    assert list(log) == [
        *("step", "loss", "error"),
        *("explained_variance", "l0", "dead_share", "lr"),
    ]
    assert (log["loss"] >= log["error"]).all()
    assert log["step"].iloc[-1] == 150
    assert log["explained_variance"].iloc[-1] > log["explained_variance"].iloc[0]
    assert log["l0"].between(0, 4).all()
    assert log["dead_share"].between(0, 1).all()
    assert log["lr"].max() == settings.lr
    assert log["lr"].iloc[-1] < settings.lr / 10


def test_only_training_images_are_used(make_cohort, train_sae, tmp_path):
    cohort = make_cohort()
    train_sae(cohort, tmp_path / "one")
    # The same training images, and no test images at all.
    table = pd.read_parquet(cohort.images)
    write_table(table[table["split"] == "training"], cohort.images)
    train_sae(cohort, tmp_path / "two")
    assert (tmp_path / "one" / FILES[0]).read_bytes() == (tmp_path / "two" / FILES[0]).read_bytes()


def test_the_description_records_how_the_sae_was_made(cohort, train_sae, settings, tmp_path):
    description = read_json(train_sae(cohort, tmp_path))
    assert description["training"] == settings.model_dump(mode="json")
    assert description["grid"]["layer"] == "head"
    assert description["cells"] == 18 * 12


def test_a_run_that_diverges_stops_and_names_the_step(cohort, train_sae, settings, tmp_path):
    wild = settings.model_copy(update={"lr": 1e30})
    with pytest.raises(InputError, match=r"training diverged at step \d+: .*lower lr"):
        train_sae(cohort, tmp_path, wild)
    assert not list(tmp_path.glob("sae*"))


def test_a_split_without_images_is_refused(cohort, train_sae, tmp_path):
    table = pd.read_parquet(cohort.images)
    write_table(table.assign(split="test"), cohort.images)
    with pytest.raises(InputError, match=r"images\.parquet has no image of split 'training'"):
        train_sae(cohort, tmp_path / "out")


def test_images_of_the_split_whose_embeddings_are_given_as_advised_are_trained_on(
    make_cohort, train_sae, tmp_path
):
    cohort = make_cohort()
    table = pd.read_parquet(cohort.images)
    # The training images have no embeddings, as if their conversion had left them out.
    training = table["split"] == "training"
    write_table(table.assign(image_id=table["image_id"].mask(training, "x")), cohort.images)
    with pytest.raises(InputError) as refused:
        train_sae(cohort, tmp_path / "out")
    said = re.search(
        r"has no image of split 'training' with embeddings, only of (.*); give the embeddings of",
        str(refused.value),
    )
    assert said[1] == "test"
    write_table(table, cohort.images)
    train_sae(cohort, tmp_path / "out")
    assert read_json(tmp_path / "out" / "sae.json")["cells"] == 18 * 12


def test_another_layer_is_refused(cohort, train_sae, tmp_path):
    with pytest.raises(StoreError, match=r"holds no layer blocks\.3"):
        train_sae(cohort, tmp_path / "out", layer="blocks.3")


def test_identical_cells_are_refused(make_cohort, train_sae, tmp_path, monkeypatch):
    # The cells are overwritten, so the files differ from those that the store lists.
    monkeypatch.setattr(publish, "SMALL", 0)
    cohort = make_cohort()
    for manifest in cohort.manifests:
        cells = zarr.open_array(manifest.with_suffix("") / "head.zarr/cells", mode="r+")
        cells[:] = 1.0
    with pytest.raises(InputError, match="all cells of the training images are the same"):
        train_sae(cohort, tmp_path / "out")


def trained(path) -> SparseAutoencoder:
    sae = SparseAutoencoder.load(path)
    assert all(torch.isfinite(tensor).all() for tensor in sae.tensors().values())
    return sae


def test_a_lower_rate_as_advised_ends_a_training_that_diverged(
    cohort, train_sae, settings, tmp_path
):
    wild = settings.model_copy(update={"lr": 1e30})
    with pytest.raises(InputError, match=r"lower lr = 1e\+30 or check the embeddings$"):
        train_sae(cohort, tmp_path, wild)
    own = wild.model_copy(update={"lr": 1e-2})
    assert trained(train_sae(cohort, tmp_path, own)).latents == own.latents


def test_embeddings_that_are_checked_and_extracted_again_are_trained_on(
    make_cohort, train_sae, tmp_path, monkeypatch
):
    # The cells are overwritten, so the files differ from those that the store lists.
    monkeypatch.setattr(publish, "SMALL", 0)
    for value, said in (
        (1.0, "are the same; check the embeddings$"),
        (np.nan, "NaN or infinity in the embedding of image .*; extract the embeddings again$"),
    ):
        cohort = make_cohort()
        for manifest in cohort.manifests:
            cells = zarr.open_array(manifest.with_suffix("") / "head.zarr/cells", mode="r+")
            cells[:] = value
        with pytest.raises(InputError, match=said):
            train_sae(cohort, tmp_path / "out")
    assert trained(train_sae(make_cohort(), tmp_path / "out")).latents == 32


def test_files_of_one_folder_as_advised_are_written(cohort, train_sae, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "sae.safetensors"
    with pytest.raises(InputError, match=r"sae\.safetensors must lie in one folder"):
        train_sae(cohort, tmp_path / "out", weights=elsewhere)
    assert trained(train_sae(cohort, tmp_path / "out")).latents == 32


def test_cells_inside_and_some_outside_the_breast_are_used_with_the_image_stores(
    cohort, train_sae, settings, tmp_path
):
    own = settings.model_copy(update={"background": 0.5})
    with pytest.raises(InputError, match=r"needs the image stores; give their manifests$"):
        train_sae(cohort, tmp_path, own)
    train_sae(cohort, tmp_path, own, image_stores=cohort.image_stores)
    assert read_json(tmp_path / "sae.json")["cells"] < 18 * 12


def test_cells_of_the_background_are_used_where_no_breast_is_stored(
    cohort, train_sae, settings, tmp_path
):
    for manifest in cohort.image_stores:
        ids = ImageReader([manifest]).image_ids
        shape = {"height": 128, "width": 96}
        with create_image_store(
            manifest.with_suffix(".zarr"), manifest, image_ids=ids, regions=[], **shape
        ) as writer:
            for position in range(len(ids)):
                writer.write(
                    position,
                    ImageRecord(
                        pixels=np.zeros((128, 96), np.uint8),
                        breast=np.zeros((128, 96), bool),
                        regions=np.zeros((0, 128, 96), bool),
                        affine=np.eye(2, 3),
                        flipped=False,
                        spacing_mm=1.0,
                    ),
                )
    own = settings.model_copy(update={"background": 0.0})
    with pytest.raises(InputError, match=r"have no cell; check split and background$"):
        train_sae(cohort, tmp_path, own, image_stores=cohort.image_stores)
    own = settings.model_copy(update={"background": 0.5})
    train_sae(cohort, tmp_path, own, image_stores=cohort.image_stores)
    assert 0 < read_json(tmp_path / "sae.json")["cells"] < 18 * 12


def test_a_layer_that_the_message_names_is_trained_on(cohort, train_sae, tmp_path):
    with pytest.raises(StoreError) as refused:
        train_sae(cohort, tmp_path / "out", layer="blocks.3")
    layer = re.search(r"holds no layer blocks\.3, only (\S+)$", str(refused.value))[1]
    path = train_sae(cohort, tmp_path / "out", layer=layer)
    assert trained(path).description["grid"]["layer"] == layer


def test_only_so_many_training_images_are_used(cohort, train_sae, settings, tmp_path):
    few = settings.model_copy(update={"images": 5})
    description = read_json(train_sae(cohort, tmp_path / "few", few))
    assert description["cells"] == 5 * 12
    train_sae(cohort, tmp_path / "again", few)
    assert (tmp_path / "few" / FILES[0]).read_bytes() == (
        tmp_path / "again" / FILES[0]
    ).read_bytes()
    many = settings.model_copy(update={"images": 500})
    assert read_json(train_sae(cohort, tmp_path / "many", many))["cells"] == 18 * 12


def test_the_buffer_is_given_in_mebibytes(cohort, train_sae, settings, tmp_path, monkeypatch):
    budgets = []

    class Counted(Cells):
        def __init__(self, reader, budget, *more):
            budgets.append(budget)
            super().__init__(reader, budget, *more)

    monkeypatch.setattr("mammo_sae.sae.train_sae.Cells", Counted)
    train_sae(cohort, tmp_path, settings.model_copy(update={"steps": 1, "buffer": 3}))
    assert budgets == [3 * 1024 * 1024]


def test_mammo_sae_trains_on_embeddings_as_they_are(cohort, train_sae, settings, tmp_path):
    variant = MammoSaeVariant(l1=1e-3, resample_every=0.25, resample_cells=100)
    own = settings.model_copy(update={"variant": variant, "steps": 400})
    sae = SparseAutoencoder.load(train_sae(cohort, tmp_path, own))
    assert sae.description["scale"] == 1
    x = torch.from_numpy(
        np.stack([cohort.cells[i] for i in cohort.splits["test"]]).reshape(-1, 12)
    ).float()
    # The documented formula, from the file's weights.
    z = (x @ sae.encoder_weight.t() + sae.encoder_bias).relu()
    index, value = sae.encoder()(x)
    torch.testing.assert_close(torch.zeros_like(z).scatter_add(1, index, value), z)
    rest = x - z @ sae.decoder_weight - sae.decoder_bias
    assert 1 - rest.square().sum() / (x - x.mean(dim=0)).square().sum() > 0.5
