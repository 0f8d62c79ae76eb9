from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mammo_sae.analysis.cells import cell_areas
from mammo_sae.grids import LayerGrid
from mammo_sae.report import overlay

HEIGHT, WIDTH, SCALE = 90, 60, 4
GRID = LayerGrid("blocks.1", 6, 12, 8, 8, -3.0, -2.0, 19)


def _axes():
    fig = Figure(figsize=(WIDTH * SCALE / 100, HEIGHT * SCALE / 100), dpi=100)
    FigureCanvasAgg(fig)
    ax = fig.add_axes((0, 0, 1, 1))
    return fig, ax


def _pixels(fig):
    fig.canvas.draw()
    return np.asarray(fig.canvas.buffer_rgba())[..., :3].astype(float)


def test_the_extent_is_that_of_the_cells_and_may_leave_the_image():
    left, right, bottom, top = overlay.grid_extent(GRID)
    assert (left, top) == (GRID.offset_x, GRID.offset_y)
    assert right - left == GRID.columns * GRID.stride
    assert bottom - top == GRID.rows * GRID.stride
    assert bottom > HEIGHT


@pytest.mark.parametrize("cell", [(0, 0), (5, 3), (11, 7), (0, 7), (11, 0)])
def test_one_active_cell_is_drawn_exactly_on_its_block_of_pixels(cell):
    row, column = cell
    image = np.full((HEIGHT, WIDTH), 100, np.uint8)
    activation = np.zeros((GRID.rows, GRID.columns), np.float32)
    activation[cell] = 3.0
    fig, ax = _axes()
    overlay.draw_image(ax, image)
    before = _pixels(fig)
    overlay.draw_map(ax, activation, 3.0, GRID)
    overlay.frame(ax, HEIGHT, WIDTH)
    changed = (np.abs(_pixels(fig) - before) > 2).any(axis=2)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    y, x = int(GRID.offset_y + row * GRID.stride), int(GRID.offset_x + column * GRID.stride)
    expected[max(0, y) : max(0, y + GRID.stride), max(0, x) : max(0, x + GRID.stride)] = True
    assert expected.any()
    np.testing.assert_array_equal(changed, expected.repeat(SCALE, 0).repeat(SCALE, 1))


def test_drawn_cells_cover_what_the_analyses_count_for_them():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[13:21, 22:30] = True  # exactly cell (2, 3)
    areas = cell_areas(mask[None], GRID)[0]
    assert np.argwhere(areas > 0).tolist() == [[2, 3]]
    left, _, _, top = overlay.grid_extent(GRID)
    assert (top + 2 * GRID.stride, left + 3 * GRID.stride) == (13, 22)


def test_an_inactive_cell_is_transparent_and_stronger_ones_are_more_opaque():
    shades = overlay.heat(np.array([0.0, 1.0, 2.0, 5.0]), 2.0)
    assert shades[0, 3] == 0
    assert 0 < shades[1, 3] < shades[2, 3] == shades[3, 3] < 1
    assert (overlay.heat(np.zeros(3), 0.0)[:, 3] == 0).all()


@pytest.mark.parametrize("draw", [overlay.outline, overlay.box])
def test_outlines_run_around_the_mask_even_at_the_images_edge(draw):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[30:50, 0:20] = True
    fig, ax = _axes()
    overlay.draw_image(ax, np.zeros((HEIGHT, WIDTH), np.uint8))
    before = _pixels(fig)
    draw(ax, mask, "white")
    overlay.frame(ax, HEIGHT, WIDTH)
    rows, columns = np.nonzero((np.abs(_pixels(fig) - before) > 60).any(axis=2))
    assert rows.min() / SCALE == pytest.approx(30, abs=1.5)
    assert rows.max() / SCALE == pytest.approx(50, abs=1.5)
    assert columns.max() / SCALE == pytest.approx(20, abs=1.5)


@pytest.mark.parametrize("draw", [overlay.outline, overlay.box])
def test_an_empty_mask_draws_nothing(draw):
    _, ax = _axes()
    overlay.draw_image(ax, np.zeros((HEIGHT, WIDTH), np.uint8))
    draw(ax, np.zeros((HEIGHT, WIDTH), bool), "white")
    assert not ax.collections
    assert not ax.patches
