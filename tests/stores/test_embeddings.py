from __future__ import annotations

import numpy as np
import pytest

import mammo_sae.stores.embeddings as embeddings
from mammo_sae.errors import StoreError
from mammo_sae.grids import LayerGrid
from mammo_sae.stores import publish
from mammo_sae.stores.embeddings import EmbeddingReader, create_embedding_store

GRID = LayerGrid("blocks.1", 6, 4, 3, 8, -2.0, -1.0, 19)
HEAD = LayerGrid("head", 10, 2, 2, 16, 0.0, 0.0, 64)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    # A shard file has four images of the larger layer, so that tests use several shard files.
    monkeypatch.setattr(embeddings, "SHARD_BYTES", 4 * 4 * 3 * 6 * 2)


def _write(folder, name, n, rng, batch=3, scale=1.0):
    data = {
        grid.layer: (rng.standard_normal((n, grid.rows, grid.columns, grid.channels)) * scale)
        for grid in (GRID, HEAD)
    }
    ids = [f"{name}-{i}" for i in range(n)]
    with create_embedding_store(
        folder / name, folder / f"{name}.json", image_ids=ids, grids=[GRID, HEAD]
    ) as writer:
        for start in range(0, n, batch):
            writer.write({layer: a[start : start + batch] for layer, a in data.items()})
    return folder / f"{name}.json", ids, data


def test_embeddings_come_back_by_position_and_in_batches(tmp_path):
    rng = np.random.default_rng(0)
    one, ids1, data1 = _write(tmp_path, "0", 13, rng)
    two, ids2, data2 = _write(tmp_path, "1", 6, rng)
    reader = EmbeddingReader([one, two], "blocks.1")
    truth = np.concatenate([data1["blocks.1"], data2["blocks.1"]]).astype(np.float16)
    assert reader.grid == GRID
    assert reader.dtype == np.float16
    assert reader.image_ids == ids1 + ids2
    assert (reader.read([18, 0, 5]) == truth[[18, 0, 5]]).all()
    seen = [(p, d) for p, d in reader.batches(3)]
    assert np.concatenate([p for p, _ in seen]).tolist() == list(range(19))
    assert (np.concatenate([d for _, d in seen]) == truth).all()
    assert max(len(p) for p, _ in seen) <= 3


def test_a_reader_of_some_images_sees_no_others(tmp_path):
    manifest, ids, data = _write(tmp_path, "0", 13, np.random.default_rng(0))
    reader = EmbeddingReader([manifest], "head", image_ids=[ids[9], ids[2], ids[3]])
    assert reader.image_ids == [ids[2], ids[3], ids[9]]
    assert len(reader) == 3
    together = np.concatenate([cells for _, cells in reader.batches(8)])
    assert (together == data["head"][[2, 3, 9]].astype(np.float16)).all()


def test_a_layer_that_overflows_float16_is_stored_as_float32_with_a_note(tmp_path):
    rng = np.random.default_rng(0)
    n = 11
    small = rng.standard_normal((n, 4, 3, 6)).astype(np.float32)
    small[9, 1, 1, 1] = 1e6
    head = rng.standard_normal((n, 2, 2, 10)).astype(np.float32)
    with create_embedding_store(
        tmp_path / "0",
        tmp_path / "0.json",
        image_ids=[str(i) for i in range(n)],
        grids=[GRID, HEAD],
    ) as writer:
        for start in range(0, n, 3):
            writer.write({"blocks.1": small[start : start + 3], "head": head[start : start + 3]})
    reader = EmbeddingReader([tmp_path / "0.json"], "blocks.1")
    assert reader.dtype == np.float32
    assert reader.read([9])[0, 1, 1, 1] == np.float32(1e6)
    assert np.allclose(reader.read(range(n)), small, rtol=1e-3, atol=1e-6)
    assert EmbeddingReader([tmp_path / "0.json"], "head").dtype == np.float16
    assert sorted(p.name for p in (tmp_path / "0").iterdir()) == [
        "blocks.1.zarr",
        "files.json",
        "head.zarr",
    ]


def test_tokens_beside_the_grid_are_exact_and_survive_a_layer_that_overflows(tmp_path):
    rng = np.random.default_rng(0)
    n = 11
    cells = rng.standard_normal((n, 4, 3, 6)).astype(np.float32)
    cells[9, 1, 1, 1] = 1e6
    head = rng.standard_normal((n, 2, 2, 10)).astype(np.float32)
    tokens = rng.standard_normal((n, 5, 6)).astype(np.float32)
    ids = [str(i) for i in range(n)]
    with create_embedding_store(
        tmp_path / "0",
        tmp_path / "0.json",
        image_ids=ids,
        grids=[GRID, HEAD],
        prefixes={"blocks.1": 5, "head": 0},
    ) as writer:
        for start in range(0, n, 3):
            some = slice(start, start + 3)
            writer.write(
                {"blocks.1": cells[some], "head": head[some]}, (), {"blocks.1": tokens[some]}
            )
    assert publish.verify_store(tmp_path / "0.json") == []
    reader = EmbeddingReader([tmp_path / "0.json"], "blocks.1", [ids[9], ids[2], ids[4]])
    assert reader.grid == GRID
    assert reader.dtype == np.float32
    assert reader.prefix_tokens == 5
    assert (reader.prefix([2, 0]) == tokens[[9, 2]]).all()
    assert np.allclose(reader.read([2]), cells[[9]], rtol=1e-3)
    assert EmbeddingReader([tmp_path / "0.json"], "head").prefix([0]) is None


def test_a_store_without_tokens_beside_the_grid_says_nothing_of_them(tmp_path):
    manifest, _, _ = _write(tmp_path, "0", 3, np.random.default_rng(0))
    assert "prefix" not in manifest.read_text()
    assert not list((tmp_path / "0").rglob("prefix"))


def test_nan_in_a_token_beside_the_grid_is_refused_with_the_layer(tmp_path):
    with (
        pytest.raises(StoreError, match=r"layer head: NaN or infinity in the tokens"),
        create_embedding_store(
            tmp_path / "0",
            tmp_path / "0.json",
            image_ids=["a"],
            grids=[HEAD],
            prefixes={"head": 1},
        ) as writer,
    ):
        writer.write({"head": np.zeros((1, 2, 2, 10))}, (), {"head": np.full((1, 1, 10), np.nan)})


def test_nan_is_refused_with_the_layer_and_the_image(tmp_path):
    cells = np.zeros((2, 4, 3, 6))
    cells[1, 0, 0, 0] = np.nan
    with (
        pytest.raises(StoreError, match=r"layer blocks\.1: NaN or infinity in image second"),
        create_embedding_store(
            tmp_path / "0", tmp_path / "0.json", image_ids=["first", "second"], grids=[GRID]
        ) as writer,
    ):
        writer.write({"blocks.1": cells})
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_is_not_there_is_named_with_those_that_are(tmp_path):
    manifest, _, _ = _write(tmp_path, "0", 3, np.random.default_rng(0))
    with pytest.raises(StoreError, match=r"no layer blocks\.7, only blocks\.1, head"):
        EmbeddingReader([manifest], "blocks.7")


def test_the_advice_about_embeddings_is_followed(tmp_path):
    rng = np.random.default_rng(0)
    manifest, ids, _ = _write(tmp_path, "0", 3, rng)
    with pytest.raises(StoreError, match=r"no embedding store of layer head given; name a mani"):
        EmbeddingReader([], "head")
    assert EmbeddingReader([manifest], "head").image_ids == ids
    with pytest.raises(StoreError) as refused:
        EmbeddingReader([manifest], "blocks.7")
    for layer in str(refused.value).partition(", only ")[2].split(", "):
        assert EmbeddingReader([manifest], layer).grid.layer == layer
    other = LayerGrid("head", 10, 1, 2, 16, 0.0, 0.0, 64)

    def further(grid):
        with create_embedding_store(
            tmp_path / "1", tmp_path / "1.json", image_ids=["x"], grids=[grid]
        ) as writer:
            writer.write({"head": np.zeros((1, grid.rows, grid.columns, grid.channels))})
        return tmp_path / "1.json"

    with pytest.raises(StoreError, match=r"another grid than .*; extract all shards again$"):
        EmbeddingReader([manifest, further(other)], "head")
    assert len(EmbeddingReader([manifest, further(HEAD)], "head")) == 4
    cells = np.zeros((1, 2, 2, 10))
    with (
        pytest.raises(StoreError, match=r"infinity in image x; check the encoder's weights$"),
        create_embedding_store(
            tmp_path / "3", tmp_path / "3.json", image_ids=["x"], grids=[HEAD]
        ) as writer,
    ):
        writer.write({"head": np.full_like(cells, np.nan)})
    assert not (tmp_path / "3.json").exists()
    with create_embedding_store(
        tmp_path / "3", tmp_path / "3.json", image_ids=["x"], grids=[HEAD]
    ) as writer:
        writer.write({"head": cells})
    assert not EmbeddingReader([tmp_path / "3.json"], "head").read([0]).any()
    with pytest.raises(StoreError, match=r"the same image is in two stores; rebuild them$"):
        EmbeddingReader([manifest, manifest], "head")
    again, _, _ = _write(tmp_path, "2", 3, rng)
    assert len(EmbeddingReader([manifest, again], "head")) == 6


def test_a_damaged_store_that_is_made_again_as_advised_is_read(tmp_path, monkeypatch):
    # The file is treated as a large one. Small ones are compared when the store is opened.
    monkeypatch.setattr(publish, "SMALL", 0)
    manifest, _, _ = _write(tmp_path, "0", 8, np.random.default_rng(0))
    chunk = next(p for p in (tmp_path / "0" / "blocks.1.zarr" / "cells").rglob("0") if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[10] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match=r"delete the store's manifest and rerun$"):
        EmbeddingReader([manifest], "blocks.1").read([0])
    manifest.unlink()
    manifest, _, cells = _write(tmp_path, "0", 8, np.random.default_rng(0))
    found = EmbeddingReader([manifest], "blocks.1").read(range(8))
    assert (found == cells["blocks.1"].astype(np.float16)).all()


@pytest.mark.parametrize("way", ["read one image", "stream a block"])
def test_a_flipped_bit_is_found_by_every_way_of_reading(tmp_path, monkeypatch, way):
    # The file is treated as a large one. Small ones are compared when the store is opened.
    monkeypatch.setattr(publish, "SMALL", 0)
    manifest, _, _ = _write(tmp_path, "0", 8, np.random.default_rng(0))
    chunk = next(p for p in (tmp_path / "0" / "blocks.1.zarr" / "cells").rglob("0") if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[10] ^= 1
    chunk.write_bytes(data)
    reader = EmbeddingReader([manifest], "blocks.1")
    with pytest.raises(StoreError, match="damaged"):
        reader.read([0]) if way == "read one image" else reader.read_block(0)


def test_an_image_too_few_keeps_the_store_from_being_published(tmp_path):
    with (
        pytest.raises(ValueError, match="1 of 2 images"),
        create_embedding_store(
            tmp_path / "0", tmp_path / "0.json", image_ids=["a", "b"], grids=[GRID]
        ) as writer,
    ):
        writer.write({"blocks.1": np.zeros((1, 4, 3, 6))})
    assert list(tmp_path.iterdir()) == []
