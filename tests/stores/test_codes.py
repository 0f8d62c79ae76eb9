from __future__ import annotations

import numpy as np
import pytest

from mammo_sae.errors import StoreError
from mammo_sae.grids import LayerGrid
from mammo_sae.stores import codes as stores
from mammo_sae.stores import publish
from mammo_sae.stores.codes import POOLED, CodesReader, create_codes_store

GRID = LayerGrid("blocks.1", 6, 4, 3, 8, -2.0, -1.0, 19)
N, H, K = 9, 20, 3


def _batch(rng):
    index = rng.permuted(np.tile(np.arange(H), (N, 4, 3, 1)), axis=-1)[..., :K]
    value = rng.random((N, 4, 3, K)).astype(np.float32)
    value[0, 0, 0, 1:], index[0, 0, 0, 1:] = 0, 0
    dense = np.zeros((N, 4, 3, H), dtype=np.float32)
    for place in np.ndindex(N, 4, 3):
        for slot in range(K):
            dense[(*place, index[(*place, slot)])] += value[(*place, slot)]
    pooled = {}
    for name, flat in (("", dense.reshape(N, -1, H)), ("_breast", dense[:, :, 0])):
        pooled[f"mean{name}"] = flat.mean(1)
        pooled[f"max{name}"] = flat.max(1)
        pooled[f"active{name}"] = (flat > 0).mean(1).astype(np.float32)
    return index, value, dense, pooled


def _write(folder, rng, k=K):
    index, value, dense, pooled = _batch(rng)
    ids = [f"i{i}" for i in range(N)]
    with create_codes_store(
        folder / "c.zarr", folder / "c.json", image_ids=ids, grid=GRID, latents=H, k=k
    ) as writer:
        for part in np.array_split(np.arange(N) if k is None else rng.permutation(N), 3):
            chosen = {name: values[part] for name, values in pooled.items()}
            writer.write(part, index[part], value[part], chosen)
    return CodesReader(folder / "c.json"), ids, (index, value, dense, pooled)


def test_codes_and_their_pooling_come_back(tmp_path):
    reader, ids, (index, value, _, pooled) = _write(tmp_path, np.random.default_rng(0))
    assert (reader.latents, reader.k, reader.grid, reader.image_ids) == (H, K, GRID, ids)
    got_index, got_value = reader.cells([4, 1])
    assert (got_index == index[[4, 1]]).all()
    assert (got_value == value[[4, 1]]).all()
    for name, values in pooled.items():
        assert (reader.pooled(name) == values).all()
        assert (reader.pooled(name, ["i7", "i0"]) == values[[7, 0]]).all()


def test_pooled_codes_of_some_latents_and_images_come_in_the_order_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "IMAGES_PER_SHARD", 2)
    monkeypatch.setattr(stores, "LATENTS_PER_CHUNK", 8)
    monkeypatch.setattr(stores.arrays, "TABLE_BYTES", 2 * 2 * 8 * 4)  # two chunks
    reader, ids, (*_, pooled) = _write(tmp_path, np.random.default_rng(4))
    latents = [19, 2, 9, 3, 2]
    assert (reader.pooled("max", latents=latents) == pooled["max"][:, latents]).all()
    rows = [8, 0, 5, 0]
    got = reader.pooled("mean", [ids[i] for i in rows], latents)
    assert (got == pooled["mean"][np.ix_(rows, latents)]).all()
    assert reader.pooled("max", [], latents).shape == (0, 5)
    assert reader.pooled("max", ids[:2], []).shape == (2, 0)
    with pytest.raises(StoreError, match=r"latents 0\.\.19, not 20"):
        reader.pooled("max", latents=[20])


def test_only_the_chunks_of_the_wanted_images_and_latents_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "IMAGES_PER_SHARD", 4)
    monkeypatch.setattr(stores, "LATENTS_PER_CHUNK", 8)
    monkeypatch.setattr(publish, "SMALL", 0)
    reader, ids, (*_, pooled) = _write(tmp_path, np.random.default_rng(5))
    (tmp_path / "c.zarr" / "max" / "c" / "1" / "2").write_bytes(b"damaged")  # images 4-7, 16-19
    assert (reader.pooled("max", latents=range(16)) == pooled["max"][:, :16]).all()
    assert (reader.pooled("max", ids[:4]) == pooled["max"][:4]).all()
    with pytest.raises(StoreError, match="max is damaged"):
        reader.pooled("max", ["i4"], [16])


def test_blocks_hold_every_latent_and_image_once_and_stay_below_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "IMAGES_PER_SHARD", 2)
    monkeypatch.setattr(stores, "LATENTS_PER_CHUNK", 8)
    reader, ids, (*_, pooled) = _write(tmp_path, np.random.default_rng(6))
    for most, wide, many in ((4 * N * 5, 4, 2), (4 * H * 5, 8, 4), (1, 1, 2)):
        monkeypatch.setattr(stores, "BLOCK_BYTES", most)
        blocks = reader.latent_blocks(N)
        assert max(map(len, blocks)) == wide
        assert np.concatenate(blocks).tolist() == list(range(H))
        read = [reader.pooled("active", latents=block) for block in blocks]
        assert (np.concatenate(read, axis=1) == pooled["active"]).all()
        images = reader.image_blocks()
        assert max(map(len, images)) == many
        assert [name for block in images for name in block] == ids
    monkeypatch.setattr(stores, "BLOCK_BYTES", 1 << 20)
    assert [block.tolist() for block in reader.latent_blocks(N, [19, 3])] == [[3, 19]]


def test_codes_whose_number_varies_are_stored_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "CODES_PER_CHUNK", 8)
    monkeypatch.setattr(stores, "CODES_PER_SHARD", 16)
    reader, _, (index, value, _, _) = _write(tmp_path, np.random.default_rng(0), k=None)
    dataset = reader.dataset()
    assert dataset["value"].shape == (int((value > 0).sum()),)
    assert (dataset["count"].values == (value > 0).sum(axis=-1)).all()
    for positions in ([4, 1], [0], range(N)):
        got_index, got_value = reader.cells(positions)
        assert (got_index == index[positions]).all()
        assert (got_value == value[positions]).all()
    assert reader.cells([])[0].shape == (0, 4, 3, 1)


def test_codes_whose_number_varies_must_come_in_order(tmp_path):
    zeros = dict.fromkeys(POOLED, np.zeros((1, H), dtype=np.float32))
    with (
        pytest.raises(ValueError, match="do not follow image -1"),
        create_codes_store(
            tmp_path / "c.zarr", tmp_path / "c.json", image_ids=["a", "b"], grid=GRID, latents=H,
            k=None,
        ) as writer,
    ):  # fmt: skip
        writer.write([1], np.zeros((1, 4, 3, 1), int), np.zeros((1, 4, 3, 1), np.float32), zeros)


def test_images_without_a_single_code_are_stored_too(tmp_path):
    zeros = dict.fromkeys(POOLED, np.zeros((1, H), dtype=np.float32))
    with create_codes_store(
        tmp_path / "c.zarr", tmp_path / "c.json", image_ids=["a"], grid=GRID, latents=H, k=None
    ) as writer:
        writer.write([0], np.zeros((1, 4, 3, 2), int), np.zeros((1, 4, 3, 2), np.float32), zeros)
    index, value = CodesReader(tmp_path / "c.json").cells([0])
    assert index.shape == (1, 4, 3, 1)
    assert not value.any()


@pytest.mark.parametrize("k", [K, None], ids=["k", "ragged"])
@pytest.mark.parametrize("name", ["index", "value", "max"])
def test_a_flipped_bit_is_found_when_part_of_a_shard_is_read(tmp_path, monkeypatch, name, k):
    # The file is treated as a large one. Small ones are compared when the store is opened.
    monkeypatch.setattr(publish, "SMALL", 0)
    _write(tmp_path, np.random.default_rng(3), k)
    (shard,) = [p for p in (tmp_path / "c.zarr" / name / "c").rglob("*") if p.is_file()]
    content = bytearray(shard.read_bytes())
    content[10] ^= 4
    shard.write_bytes(bytes(content))
    reader = CodesReader(tmp_path / "c.json")
    with pytest.raises(StoreError, match=f"{name} is damaged"):
        reader.pooled("max", ["i0"]) if name == "max" else reader.cells([0])


@pytest.mark.parametrize("k", [K, None], ids=["k", "ragged"])
def test_maps_of_chosen_latents_equal_the_dense_code(tmp_path, k):
    reader, _, (_, _, dense, *_) = _write(tmp_path, np.random.default_rng(1), k)
    maps = reader.maps([0, 3, 8], [0, 19, 7])
    assert np.allclose(maps, dense[[0, 3, 8]][..., [0, 19, 7]].transpose(0, 3, 1, 2))
    assert maps.shape == (3, 3, 4, 3)


def test_the_dataset_is_labelled_by_image_and_latent(tmp_path):
    reader, _, (_, _, _, pooled) = _write(tmp_path, np.random.default_rng(2))
    dataset = reader.dataset()
    assert dataset["mean"].dims == ("image_id", "latent")
    assert float(dataset["mean"].sel(image_id="i3", latent=5)) == pooled["mean"][3, 5]


def test_a_code_of_a_latent_that_does_not_exist_is_refused(tmp_path):
    index = np.full((1, 4, 3, K), H)
    with (
        pytest.raises(ValueError, match=r"outside of 0\.\.19"),
        create_codes_store(
            tmp_path / "c.zarr", tmp_path / "c.json", image_ids=["a"], grid=GRID, latents=H, k=K
        ) as writer,
    ):
        zeros = np.zeros((1, H), dtype=np.float32)
        value = np.zeros((1, 4, 3, K), dtype=np.float32)
        writer.write([0], index, value, dict.fromkeys(POOLED, zeros))


def test_which_cells_a_limit_leaves_out_is_stored_if_and_only_if_there_is_a_limit(tmp_path):
    index, value, _, pooled = _batch(np.random.default_rng(8))
    ids = [f"i{i}" for i in range(N)]
    for limited, short in ((True, None), (False, np.ones((N, 4, 3), bool))):
        with (
            pytest.raises(ValueError, match="short belongs to the codes of an SAE with a limit"),
            create_codes_store(
                tmp_path / "c.zarr", tmp_path / "c.json", image_ids=ids, grid=GRID, latents=H, k=K,
                limited=limited,
            ) as writer,
        ):  # fmt: skip
            writer.write(range(N), index, value, pooled, short)
