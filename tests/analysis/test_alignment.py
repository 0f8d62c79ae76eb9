from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from dense_scores import score_map
from mammo_sae import statistics as st
from mammo_sae.analysis import alignment, exchange, latents
from mammo_sae.analysis import streamed as streaming
from mammo_sae.analysis.lesions import (
    Found,
    ScoresBySize,
    lesion_sizes,
    size_limits,
    unit_of_sizes,
)
from mammo_sae.analysis.map_scores import Lesions, MapScores
from mammo_sae.analysis.settings import AlignmentSettings, LatentSettings
from mammo_sae.grids import LayerGrid
from mammo_sae.stores.tables import read_table

SETTINGS = AlignmentSettings(
    top_latents=6, bootstrap_draws=50, permutation_draws=199, quantile=0.02
)


@dataclass
class Scene:
    """Areas [n, R, C] of the breast, of the mask inside it, and of the whole mask over a cell."""

    breast: np.ndarray
    mask: np.ndarray
    moved: np.ndarray
    patients: np.ndarray
    views: np.ndarray


def hand_made(n=40, rows=6, columns=5, seed=0):
    """One lesion cell per image, at a random position in a breast of 5 x 4 cells of 16 pixels."""
    rng = np.random.default_rng(seed)
    breast = np.zeros((n, rows, columns), np.float32)
    breast[:, :5, :4] = 16
    region = np.zeros_like(breast)
    lesion = rng.integers(0, 5, n), rng.integers(0, 4, n)
    region[np.arange(n), *lesion] = 16
    views = np.tile(["CC", "MLO"], n // 2)
    patients = np.repeat(np.arange(n // 2), 2)
    return Scene(breast, np.minimum(region, breast), region / 16, patients, views), lesion


def streamed(here, maps, thresholds, settings=SETTINGS):
    """Score `maps` [m, n, R, C] of one scene, added image by image."""
    scores = MapScores(
        settings, Lesions(here.moved * 16), here.patients, here.views, thresholds, 16.0
    )
    for image in range(len(here.breast)):
        flat = maps[:, image].reshape(len(maps), -1)
        which, cell = np.nonzero(flat)
        scores.add(image, which, cell, flat[which, cell], here.breast[image].ravel())
    return scores.rows()


def scored(here, activation, threshold=0.0):
    return streamed(here, activation[None], np.array([threshold]))[0]


def dense(here, activation, threshold, settings=SETTINGS):
    drawn = st.PatientDraws(here.patients, settings.bootstrap_draws, settings.seed)
    [weights] = drawn.weights()
    moves = exchange.PatientExchanges(
        here.patients, settings.permutation_draws, settings.seed, within=here.views
    )
    all_moves = moves.of(np.arange(len(here.patients)))
    return score_map(here, activation, threshold, weights, all_moves)


def irregular(seed=0, n=60, m=7):
    """Maps [m, n, 9, 7], masks of several cells that reach beyond the breast, unequal patients."""
    rng = np.random.default_rng(seed)
    breast = rng.integers(0, 17, (n, 9, 7)) * (rng.random((n, 9, 7)) < 0.8)
    region = np.zeros((n, 9, 7))
    for image in range(n):
        y, x = rng.integers(0, 7), rng.integers(0, 5)
        region[image, y : y + 3, x : x + 2] = rng.integers(1, 17, (3, 2))
    patients = np.sort(rng.integers(0, 25, n))
    views = rng.choice(["CC", "MLO"], n)
    maps = np.maximum(rng.normal(size=(m, n, 9, 7)) - np.linspace(0, 2, m)[:, None, None, None], 0)
    maps = np.round(maps, 1).astype(np.float32)
    maps[:, rng.random(n) < 0.2] = 0
    breast, region = breast.astype(np.float32), region.astype(np.float32)
    here = Scene(breast, np.minimum(region, breast), region / 16, patients, views)
    return here, maps


def test_scores_from_a_stream_of_images_are_those_of_whole_arrays():
    """Some sums of whole arrays are float32, so the tolerance is 1e-6 of each value."""
    here, maps = irregular()
    thresholds = np.linspace(0.0, 1.0, len(maps))
    for row, one, threshold in zip(streamed(here, maps, thresholds), maps, thresholds, strict=True):
        expected = dense(here, one, threshold)
        assert row.keys() == expected.keys()
        assert {k: v for k, v in row.items() if k != "reason"} == pytest.approx(
            {k: v for k, v in expected.items() if k != "reason"}, rel=1e-6
        )
        assert row["reason"] == expected["reason"]


def peak_bytes(monkeypatch, n, side):
    """Peak memory of the scores of `n` images of side x side cells, all of them active."""
    monkeypatch.setattr(streaming, "CURVE_CELLS", 20_000)
    region = np.zeros((1, side, side), np.float32)
    region[0, 3:5, 3:5] = 16
    masks = Lesions.joined([Lesions(region)] * n)
    patients = np.arange(n) // 2
    settings = SETTINGS.model_copy(update={"permutation_draws": 99})
    cell = np.arange(side * side)
    breast, values = np.full(side * side, 16.0), np.random.default_rng(0).random(side * side)
    tracemalloc.start()
    scores = MapScores(settings, masks, patients, np.full(n, "CC"), np.zeros(1), 16.0)
    for image in range(n):
        scores.add(image, np.zeros_like(cell), cell, values * (1 + image), breast)
    assert scores.rows()[0]["images"] == n
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_masks_that_cannot_be_exchanged_give_no_p_but_a_reason():
    here, _ = hand_made(n=12)
    # Two pairs of patients have the same view, and each other patient has a view of its own.
    views = np.array([f"view {i // 2 if i < 4 else i}" for i in range(12)])
    scene = Scene(here.breast, here.mask, here.moved, np.arange(12), views)
    row = scored(scene, scene.moved)
    assert row["energy_lift"] == pytest.approx(20.0)
    assert "p" not in row
    assert "shuffled_energy_lift" not in row
    assert row["reason"] == (
        "no p: values can be exchanged between patients in 4 ways, fewer than 20"
    )
    scene.views = np.full(12, "CC")
    row = scored(scene, scene.moved)
    assert row["p"] < 0.05
    assert row["reason"] == ""


def test_memory_does_not_grow_with_images_times_cells(monkeypatch):
    """200 more images of 1,600 cells have 320,000 more cells, of 4 bytes at least."""
    peak_bytes(monkeypatch, 60, 40)  # what is made once
    growth = peak_bytes(monkeypatch, 260, 40) - peak_bytes(monkeypatch, 60, 40)
    assert growth < 0.5 * 4 * 200 * 1600


def test_average_precisions_with_levels_are_near_those_of_all_cells(monkeypatch):
    here, maps = irregular(n=1000)
    maps *= np.random.default_rng(1).random(maps.shape).astype(np.float32)
    exact = streamed(here, maps, np.zeros(len(maps)))
    monkeypatch.setattr(streaming, "CURVE_CELLS", 40_000)
    bounded = streamed(here, maps, np.zeros(len(maps)))
    for name in ("auprc", "auprc_low", "auprc_high"):
        values = [[row[name] for row in rows] for rows in (exact, bounded)]
        assert values[0] != values[1]
        np.testing.assert_allclose(*values, rtol=5e-3)


def test_a_map_that_is_the_lesion_scores_one_everywhere():
    here, _ = hand_made()
    row = scored(here, (here.mask > 0).astype(np.float32))
    for name in ("auprc", "pooled_iou", "energy_inside", "pointing", "pointing_near", "fires"):
        assert row[name] == pytest.approx(1.0), name
    assert row["energy_lift"] == pytest.approx(20.0)
    assert row["p"] == pytest.approx(1 / 200)
    assert row["energy_lift_low"] == pytest.approx(20.0)


def test_a_flat_map_scores_chance():
    here, _ = hand_made()
    row = scored(here, np.ones_like(here.breast))
    assert row["energy_lift"] == pytest.approx(1.0)
    assert row["auprc"] == pytest.approx(0.05)
    assert row["chance_auprc"] == pytest.approx(0.05)
    assert row["pooled_iou"] == pytest.approx(0.05)
    assert row["shuffled_energy_lift"] == pytest.approx(1.0)
    assert row["p"] > 0.5


def test_a_map_that_avoids_the_lesion_scores_nothing():
    here, _ = hand_made()
    row = scored(here, (here.mask == 0).astype(np.float32))
    assert row["energy_lift"] == 0.0
    assert row["pooled_iou"] == 0.0
    assert row["pointing"] == 0.0
    assert row["auprc"] <= row["chance_auprc"]
    assert row["p"] > 0.9


def test_a_displaced_detector_points_near_but_not_at_the_lesion():
    here, _ = hand_made()
    row = scored(here, np.roll(here.mask, 1, axis=1) * (np.roll(here.mask, 1, axis=1) > 0))
    fired = row["fires"]
    assert row["pointing"] == 0.0
    assert row["pointing_near"] == pytest.approx(fired)
    assert row["chance_pointing_near"] > row["chance_pointing"] == pytest.approx(0.05)


def test_a_cell_with_little_breast_counts_as_breast():
    here, lesion = hand_made()
    for areas in (here.breast, here.mask):
        areas[np.arange(40), *lesion] = 0.5
    row = scored(here, (here.mask > 0).astype(np.float32))
    assert row["fires"] == row["energy_inside"] == row["pointing"] == 1.0


def test_pointing_and_its_baselines_are_those_of_every_image_mask_and_cell():
    rng = np.random.default_rng(6)
    here, _ = hand_made()
    here.moved[:] *= 0.25  # masks that fill no cell touch it nevertheless
    activation = rng.random(here.breast.shape).astype(np.float32)
    activation[:12] = 0
    moves = exchange.PatientExchanges(here.patients, 199, 0, within=here.views).of(np.arange(40))
    row = scored(here, activation)
    shown = np.where(here.breast > 0, activation, 0)
    places = np.argwhere(shown == shown.max(axis=(1, 2), keepdims=True))
    peak = {int(image): cell for image, *cell in places if image >= 12}
    for name, reach in (("pointing", 0), ("pointing_near", 1)):
        touched = np.zeros(here.breast.shape, bool)
        for image, r, c in np.argwhere(here.moved > 0):
            touched[image, max(r - reach, 0) : r + reach + 1, max(c - reach, 0) : c + reach + 1] = 1
        hits = [sum(touched[(move[i], *cell)] for i, cell in peak.items()) for move in moves]
        assert row[f"shuffled_{name}"] == pytest.approx(np.mean(hits) / 40)
        assert row[name] == sum(touched[(i, *cell)] for i, cell in peak.items()) / 40
        covered = (touched * here.breast).sum(axis=(1, 2)) / here.breast.sum(axis=(1, 2))
        assert row[f"chance_{name}"] == pytest.approx(covered.mean())


def test_energy_outside_of_the_breast_does_not_count():
    here, _ = hand_made()
    activation = 0.5 * (here.mask > 0).astype(np.float32)
    activation[:, 5, :] = 9.0
    row = scored(here, activation)
    assert row["energy_inside"] == pytest.approx(1.0)
    assert row["pointing"] == pytest.approx(1.0)


def test_the_auprc_is_that_of_every_pixel():
    rng = np.random.default_rng(4)
    here, _ = hand_made(n=20)
    here.mask[:] = np.minimum(rng.integers(0, 9, here.mask.shape), here.breast)
    here.moved[:] = here.mask / 16
    activation = np.round(np.maximum(rng.normal(size=here.mask.shape), 0), 1).astype(np.float32)
    breast, mask = here.breast.ravel().astype(int), here.mask.ravel().astype(int)
    pixels = np.repeat(activation.ravel(), breast)
    inside = np.concatenate([np.arange(b) < m for b, m in zip(breast, mask, strict=True)])
    assert scored(here, activation)["auprc"] == pytest.approx(
        average_precision_score(inside, pixels)
    )


def test_a_latent_that_hardly_fires_is_not_scored():
    here, _ = hand_made()
    activation = np.zeros_like(here.breast)
    activation[:4] = here.mask[:4]
    row = scored(here, activation)
    assert row["reason"] == "fires in positive images of 2 patients, fewer than 10"
    assert "energy_lift" not in row


def test_masks_that_carry_no_information_give_uniform_p_values():
    rng = np.random.default_rng(2)
    p = []
    for trial in range(60):
        here, _ = hand_made(seed=trial)
        p.append(scored(here, rng.random(here.breast.shape).astype(np.float32))["p"])
    assert 0.35 < np.mean(p) < 0.65
    assert (np.array(p) < 0.05).mean() < 0.15


def test_the_threshold_keeps_at_most_the_asked_area():
    values, areas = np.array([5.0, 4.0, 3.0, 2.0]), np.array([1.0, 1.0, 1.0, 1.0])
    assert streaming.upper_quantile(values, areas, 2.0) == 3.0
    assert streaming.upper_quantile(values, areas, 2.5) == 3.0
    assert streaming.upper_quantile(values, areas, 10.0) == 0.0


def thresholds_of(values, areas, kept):
    upper = streaming.UpperQuantiles(len(values))
    for start in range(0, values.shape[1], 50):
        part = slice(start, start + 50)
        which = np.repeat(np.arange(len(values)), values[:, part].shape[1])
        upper.add(which, values[:, part].ravel(), areas[:, part].ravel())
    return upper.thresholds(kept)


def test_thresholds_from_a_stream_are_exact_and_rounded_up_when_values_are_many(monkeypatch):
    rng = np.random.default_rng(3)
    values = rng.gamma(2, 1, (4, 3000)).astype(np.float32)
    areas = rng.integers(1, 9, values.shape).astype(np.float32)
    exact = [streaming.upper_quantile(v, a, 800.0) for v, a in zip(values, areas, strict=True)]
    monkeypatch.setattr(streaming, "_PENDING", 700)
    np.testing.assert_array_equal(thresholds_of(values, areas, 800.0), np.float32(exact))
    monkeypatch.setattr(streaming, "THRESHOLD_VALUES", 1500)
    rounded = thresholds_of(values, areas, 800.0)
    assert (rounded != exact).any()
    np.testing.assert_allclose(rounded, exact, rtol=0.02)
    for threshold, v, a in zip(rounded, values, areas, strict=True):
        assert a[v > threshold].sum() <= 800.0


def test_matched_latents_fire_about_as_often_and_are_never_ranked():
    table = pd.DataFrame({"latent": np.arange(100), "firing_rate": np.linspace(0.001, 0.5, 100)})
    table.loc[99, "firing_rate"] = 0.0
    ranked = np.array([10, 50, 51])
    matched = alignment.matched_latents(table, ranked, 3, 0)
    assert matched.shape == (3, 3)
    assert not np.isin(matched, [*ranked, 99]).any()
    assert np.abs(matched - ranked[:, None]).max() <= 12


@pytest.fixture(scope="module")
def written(world, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("alignment")
    concepts = ["mass", "suspicious_calcification"]
    common = {"identity": world.identity, "images": world.images, "codes": world.codes}
    latents.run(
        LatentSettings(bootstrap_draws=20, permutation_draws=99),
        concepts=concepts,
        output=root / "latents.parquet",
        **common,
    )
    alignment.run(
        SETTINGS,
        image_stores=world.image_stores,
        latents=root / "latents.parquet",
        concepts=concepts,
        output=root / "alignment.parquet",
        by_size=root / "alignment_by_size.parquet",
        regions=root / "regions.parquet",
        **common,
    )
    return root


@pytest.fixture(scope="module")
def table(written) -> pd.DataFrame:
    return read_table(written / "alignment.parquet")


@pytest.fixture(scope="module")
def by_size(written) -> pd.DataFrame:
    return read_table(written / "alignment_by_size.parquet")


def test_the_detector_looks_at_the_lesion_and_the_displaced_one_next_to_it(table, world):
    mass = table[table["concept"] == "mass"].set_index("latent")
    clean, displaced = mass.loc[world.latent("clean")], mass.loc[world.latent("displaced")]
    assert clean["energy_lift"] == pytest.approx(60, rel=0.01)
    assert clean["pointing"] == pytest.approx(clean["fires"])
    assert clean["q"] < 0.05
    assert clean["energy_lift"] > 10 * clean["matched_energy_lift"]
    assert displaced["pointing"] == 0.0
    assert displaced["pointing_near"] == pytest.approx(displaced["fires"])


def test_the_marker_latent_has_no_activation_inside_the_breast(table, world):
    mass = table[table["concept"] == "mass"].set_index("latent")
    marker = mass.loc[world.latent("marker")]
    assert marker["reason"].startswith("fires in positive images of 0 patients")
    assert np.isnan(marker["energy_lift"])


def test_the_prior_is_a_row_without_a_latent(table):
    mass = table[table["concept"] == "mass"]
    prior = mass[mass["selection"] == "prior"]
    assert len(prior) == 1
    assert prior["latent"].isna().all()
    assert prior["energy_lift"].item() > 1.5


def test_a_concept_without_masks_has_rows_with_the_reason(table):
    rows = table[table["concept"] == "suspicious_calcification"]
    assert rows.empty or rows["reason"].str.startswith("no mask or box").all()


def test_all_lesions_of_the_confirmation_split_have_the_scores_of_the_table(table, by_size):
    ranked = table[table["selection"] == "ranked"].set_index(["concept", "latent"])
    rows = by_size[(by_size["split"] == "test") & (by_size["size"] == "all")]
    rows = rows.set_index(["concept", "latent"])
    assert rows.index.equals(ranked.index)
    shared = [column for column in rows if column in ranked]
    assert {"energy_lift_low", "p", "q", "shuffled_pointing", "reason"} <= set(shared)
    pd.testing.assert_frame_equal(rows[shared], ranked[shared])


def test_the_detector_looks_at_the_lesion_on_the_external_split_too(by_size, world):
    rows = by_size[(by_size["latent"] == world.latent("clean")) & (by_size["split"] == "external")]
    rows = rows[rows["concept"] == "mass"].set_index("size")
    assert rows.loc["all", "energy_lift"] == pytest.approx(60, rel=0.01)
    assert rows.loc["all", "q"] < 0.05
    external = world.table[(world.table["split"] == "external") & (world.table["mass"] == 1)]
    assert rows.loc["all", "images"] == len(external)


def test_a_latent_that_detects_only_large_lesions_scores_only_there():
    """Lesions of 16, 4 and 1 pixels in cells of 16; the map is 1 on the lesions of 16."""
    here, lesion = hand_made(n=90)
    area = np.tile(np.repeat([16.0, 4.0, 1.0], 2), 15)
    here.moved[np.arange(90), *lesion] = area / 16
    grid = LayerGrid("x", 1, 6, 5, 4, 0.0, 0.0, 4)
    found = Found(
        positions=np.arange(90),
        masks=Lesions(here.moved * 16),
        patients=here.patients,
        views=here.views,
        areas=area,
        breasts=np.full(90, 320.0),
        spacing=np.full(90, 0.5),
        view_breast={},
        reason="",
    )
    sizes = lesion_sizes(found, unit_of_sizes([found]))
    np.testing.assert_allclose(np.unique(sizes), [0.25, 1.0, 4.0])  # mm2
    scores = ScoresBySize(
        SETTINGS, found, np.zeros(2), grid, np.array([1]), sizes, size_limits(sizes)
    )
    for image in range(90):
        cell = np.flatnonzero(here.moved[image].ravel())
        which, value = np.array([0, 1]), np.array([1.0, float(area[image] == 16)])
        scores.add(
            image, which[value > 0], np.repeat(cell, 2)[value > 0], value[value > 0],
            here.breast[image].ravel(),
        )  # fmt: skip
    _, rows = scores.rows()
    assert list(rows["size"]) == ["all", "small", "medium", "large"]
    assert (rows["map"] == 1).all()
    rows = rows.set_index("size")
    assert rows.loc[["small", "medium", "large"], "images"].to_list() == [30, 30, 30]
    assert rows["size_high"].to_list() == [4.0, 0.25, 1.0, 4.0]
    assert rows["fires"].to_list() == pytest.approx([1 / 3, 0, 0, 1])
    assert rows.loc["large", "energy_lift"] == pytest.approx(20.0)
    assert rows.loc["large", "pointing"] == 1.0
    assert rows.loc["small", "reason"].startswith("fires in positive images of 0 patients")


def test_sizes_are_shares_of_the_breast_if_a_spacing_is_unknown():
    found = SimpleNamespace(
        areas=np.array([8.0, 32.0]),
        breasts=np.array([320.0, 160.0]),
        spacing=np.array([0.1, np.nan]),
    )
    unit = unit_of_sizes([found])
    assert unit == "share of the breast"
    np.testing.assert_allclose(lesion_sizes(found, unit), [0.025, 0.2])
