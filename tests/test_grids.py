from __future__ import annotations

import numpy as np

from mammo_sae.grids import LayerGrid, cell_areas


def grid(rows, columns, stride, offset_y=0.0, offset_x=0.0):
    return LayerGrid("x", 1, rows, columns, stride, offset_y, offset_x, stride)


def test_a_cell_holds_the_pixels_of_its_stride():
    mask = np.zeros((8, 8), bool)
    mask[0:4, 4:6] = True
    np.testing.assert_array_equal(cell_areas(mask, grid(2, 2, 4)), [[0, 8], [0, 0]])


def test_offsets_of_half_a_pixel_split_pixels_between_cells():
    mask = np.ones((8, 1), bool)
    areas = cell_areas(mask, grid(3, 1, 4, offset_y=-2.5))
    np.testing.assert_allclose(areas[:, 0], [1.5, 4.0, 2.5])


def test_cells_are_placed_by_stride_and_not_stretched_over_the_image():
    """48 rows of stride 32 extend 16 px beyond an image of 1520 rows."""
    mask = np.zeros((1520, 32), bool)
    mask[1504:] = True
    areas = cell_areas(mask, grid(48, 1, 32))
    assert areas[47, 0] == 16 * 32
    assert areas[46, 0] == 0


def test_areas_sum_to_the_mask_where_the_grid_covers_the_image():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 2, 24, 16)) < 0.4
    areas = cell_areas(masks, grid(4, 3, 7, offset_y=-1.25, offset_x=-2.5))
    np.testing.assert_allclose(areas.sum(axis=(-2, -1)), masks.sum(axis=(-2, -1)), rtol=1e-6)
