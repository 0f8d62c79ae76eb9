from __future__ import annotations

import numpy as np
import pytest

from mammo_sae.analysis import cells
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import LayerGrid
from mammo_sae.stores.images import ImageReader


def grid(rows, columns, stride, offset_y=0.0, offset_x=0.0):
    return LayerGrid("x", 1, rows, columns, stride, offset_y, offset_x, stride)


def test_a_cell_holds_the_pixels_of_its_stride():
    mask = np.zeros((8, 8), bool)
    mask[0:4, 4:6] = True
    np.testing.assert_array_equal(cells.cell_areas(mask, grid(2, 2, 4)), [[0, 8], [0, 0]])


def test_offsets_of_half_a_pixel_split_pixels_between_cells():
    mask = np.ones((8, 1), bool)
    areas = cells.cell_areas(mask, grid(3, 1, 4, offset_y=-2.5))
    np.testing.assert_allclose(areas[:, 0], [1.5, 4.0, 2.5])


def test_cells_are_placed_by_stride_and_not_stretched_over_the_image():
    """48 rows of stride 32 reach 16 px beyond an image of 1520 rows."""
    mask = np.zeros((1520, 32), bool)
    mask[1504:] = True
    areas = cells.cell_areas(mask, grid(48, 1, 32))
    assert areas[47, 0] == 16 * 32
    assert areas[46, 0] == 0


def test_areas_sum_to_the_mask_where_the_grid_covers_the_image():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 2, 24, 16)) < 0.4
    areas = cells.cell_areas(masks, grid(4, 3, 7, offset_y=-1.25, offset_x=-2.5))
    np.testing.assert_allclose(areas.sum(axis=(-2, -1)), masks.sum(axis=(-2, -1)), rtol=1e-6)


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


def test_regions_come_in_the_order_asked_for(world):
    store, codes = ImageReader(world.image_stores), CodesReader(world.codes)
    marked = world.table.index[world.table["marker"] == 1][:1]
    _, areas = cells.image_areas(
        store, world.table["image_id"][marked].tolist(), ["marker"], codes.grid
    )
    assert areas[0, 0, 0, 7] == pytest.approx(64)
    assert areas.sum() == pytest.approx(64)
