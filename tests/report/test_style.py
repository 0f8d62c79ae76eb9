from __future__ import annotations

import math
from itertools import combinations
from typing import get_args

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from mammo_sae.analysis.settings import Ranking
from mammo_sae.report import style


def test_layers_come_in_the_order_in_which_the_network_computes_them():
    found = style.layer_order(["pooled", "head", "blocks.10", "blocks.9", "head"])
    assert found == ["blocks.9", "blocks.10", "head", "pooled"]


def test_a_name_keeps_its_colour_whatever_the_order_of_the_names():
    assert style.colours(["b", "a"], style.CONCEPT_COLOURS) == style.colours(
        ["a", "b", "a"], style.CONCEPT_COLOURS
    )


def test_an_encoder_keeps_its_colour_whichever_others_the_run_has():
    alone = style.colours(["pretrained"], style.ENCODER_COLOURS)["pretrained"]
    for others in (["finetuned"], ["a", "b"], ["finetuned", "random", "zoo"]):
        found = style.colours([*others, "pretrained"], style.ENCODER_COLOURS)
        assert found["pretrained"] == alone
        assert len(set(found.values())) == len(found)


def test_every_ranking_that_can_be_configured_has_a_name_and_a_colour_of_its_own():
    computed = {*get_args(Ranking), "class_union", "both_ends", "random"}
    assert computed <= style.RANKINGS.keys()
    for part in zip(*style.RANKINGS.values(), strict=True):
        assert len(set(part)) == len(part)


def test_a_ranking_without_an_entry_is_shown_under_its_own_name():
    assert list(style.rankings(["random", "my_order", "auroc", ""])) == [
        *("auroc", "random", "my_order")
    ]
    assert style.rankings(["my_order"])["my_order"][0] == "my order"


@pytest.mark.parametrize(
    "palette",
    [
        tuple(style.CONCEPT_COLOURS.values()),
        tuple(style.ENCODER_COLOURS.values()),
        tuple(style.CONFOUNDER_COLOURS.values()),
        tuple(colour for _, colour in style.RANKINGS.values()),
        tuple(style.VERDICT_COLOURS.values()),
    ],
)
def test_no_two_colours_of_a_palette_look_alike_to_a_dichromat(palette):
    # Vienot, Brettel and Mollon 1999: linear RGB as a protanope and a deuteranope see it.
    seen_by = {
        "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    linear = np.array([mpl.colors.to_rgb(colour) for colour in palette]) ** 2.2
    for matrix in seen_by.values():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        for a, b in combinations(range(len(palette)), 2):
            assert np.abs(seen[a] - seen[b]).max() > 0.1, (palette[a], palette[b])


def test_a_missing_estimate_is_shown_in_words_and_not_as_a_number():
    assert style.estimate(math.nan, math.nan, math.nan) == "not estimable"
    assert style.estimate(0.912, 0.874, 0.941) == "0.91 [0.87, 0.94]"
    assert style.estimate(12.34, math.nan, math.nan, digits=1) == "12.3"


def test_a_figure_is_a_png_without_date_or_software(tmp_path):
    for name in ("a.png", "b.png"):
        with style.figure(tmp_path / name, 3, 2) as fig:
            style.heading(fig, "Title", "subtitle")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"Software" not in (tmp_path / "a.png").read_bytes()
    assert imread(tmp_path / "a.png").shape[:2] == (2 * style.DPI, 3 * style.DPI)


def test_the_file_keeps_a_colour_that_few_pixels_have(tmp_path):
    with style.figure(tmp_path / "a.png", 6, 4) as fig:
        ax = fig.add_axes((0, 0, 1, 1))
        ax.imshow(np.random.default_rng(0).random((60, 60)), cmap="gray", aspect="auto")
        ax.imshow(np.linspace(0, 1, 50)[None], extent=(0, 60, 0, 9), cmap="autumn", aspect="auto")
        for place, colour in enumerate(style.VERDICT_COLOURS.values()):
            ax.plot(10 * place + 5, 40, "s", color=colour, markersize=4)
    pixels = (255 * imread(tmp_path / "a.png")[..., :3]).round().astype(int)
    tissue = pixels[20:120, 60:-60]
    assert (np.ptp(tissue, axis=2) == 0).all(), "grey has got a tint"
    for colour in style.VERDICT_COLOURS.values():
        wanted = 255 * np.array(mpl.colors.to_rgb(colour))
        assert np.abs(pixels - wanted).max(axis=2).min() <= 24, colour


def test_a_figure_whose_drawing_fails_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError), style.figure(tmp_path / "a.png", 3, 2):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_figure_does_not_depend_on_the_users_settings(tmp_path):
    def draw(name):
        with style.figure(tmp_path / name, 3, 2) as fig:
            fig.add_subplot().plot([0, 1])
        return (tmp_path / name).read_bytes()

    plain = draw("a.png")
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 20}):
        assert draw("b.png") == plain
        assert mpl.rcParams["lines.linewidth"] == 9
