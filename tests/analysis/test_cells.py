from __future__ import annotations

import numpy as np
import pytest

from mammo_sae.analysis import cells
from mammo_sae.stores.codes import CodesReader
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


def test_regions_come_in_the_order_asked_for(world):
    store, codes = ImageReader(world.image_stores), CodesReader(world.codes)
    marked = world.table.index[world.table["marker"] == 1][:1]
    _, areas = cells.image_areas(
        store, world.table["image_id"][marked].tolist(), ["marker"], codes.grid
    )
    assert areas[0, 0, 0, 7] == pytest.approx(64)
    assert areas.sum() == pytest.approx(64)
