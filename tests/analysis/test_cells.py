from __future__ import annotations

import numpy as np
import pytest

from mammo_sae.analysis import cells
from mammo_sae.grids import LayerGrid
from mammo_sae.stores.codes import POOLED, CodesReader, create_codes_store
from mammo_sae.stores.images import ImageReader


def test_streaming_in_parts_gives_the_same_as_at_once(world, monkeypatch):
    store, codes = ImageReader(world.image_stores), CodesReader(world.codes)
    ids = store.image_ids[:50]
    whole = cells.image_areas(store, ids, ["marker", "mass"], codes.grid)
    maps = codes.maps(np.arange(50), np.array([0, 3]))
    monkeypatch.setattr(cells, "MAP_BYTES", 20_000)
    parts = cells.image_areas(store, ids, ["marker", "mass"], codes.grid)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)
    streamed = list(cells.stream_maps(codes, np.arange(50), np.array([0, 3])))
    assert len(streamed) > 1
    np.testing.assert_array_equal(np.concatenate([part for _, part in streamed]), maps)
    assert [rows.start for rows, _ in streamed][:2] == [0, streamed[0][0].stop]


def test_the_codes_that_are_read_for_the_maps_of_one_latent_are_bounded_too(world, monkeypatch):
    codes = CodesReader(world.codes)
    of_image = codes.grid.rows * codes.grid.columns * codes.k * cells.BYTES_PER_CODE
    monkeypatch.setattr(cells, "MAP_BYTES", 5 * of_image)
    rows = [rows for rows, _ in cells.stream_maps(codes, np.arange(12), np.array([1]))]
    assert rows == [slice(0, 5), slice(5, 10), slice(10, 12)]


def test_an_image_with_a_full_cell_comes_in_a_small_batch(tmp_path, monkeypatch):
    grid = LayerGrid("blocks.1", 6, 4, 3, 8, -2.0, -1.0, 19)
    index = np.tile(np.arange(100), (6, 4, 3, 1))
    value = np.zeros(index.shape, np.float32)
    value[..., :2] = 1.0
    value[2, 3, 1] = 1.0  # one cell of the third image has 100 codes
    with create_codes_store(
        tmp_path / "c.zarr",
        tmp_path / "c.json",
        image_ids=list("abcdef"),
        grid=grid,
        latents=100,
        k=None,
    ) as writer:
        pooled = dict.fromkeys(POOLED, np.zeros((6, 100), np.float32))
        writer.write(np.arange(6), index, value, pooled)
    codes = CodesReader(tmp_path / "c.json")
    assert codes.widths(np.array([2, 0])).tolist() == [100, 2]
    monkeypatch.setattr(cells, "MAP_BYTES", 12 * 100 * cells.BYTES_PER_CODE)
    monkeypatch.setattr(cells, "CODES_PER_CELL", 10)
    found = list(cells.stream_active(codes, np.arange(6), np.arange(100)))
    assert [rows for rows, _ in found] == [slice(0, 2), slice(2, 3), slice(3, 6)]
    assert sum(len(active.value) for _, active in found) == int((value > 0).sum())


def test_regions_come_in_the_order_asked_for(world):
    store, codes = ImageReader(world.image_stores), CodesReader(world.codes)
    marked = world.table.index[world.table["marker"] == 1][:1]
    _, areas = cells.image_areas(
        store, world.table["image_id"][marked].tolist(), ["marker"], codes.grid
    )
    assert areas[0, 0, 0, 7] == pytest.approx(64)
    assert areas.sum() == pytest.approx(64)
