from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from mammo_sae import statistics as st
from mammo_sae.analysis import alignment, exchange, latents
from mammo_sae.analysis.settings import AlignmentSettings, LatentSettings
from mammo_sae.stores.tables import read_table

SETTINGS = AlignmentSettings(
    top_latents=6, bootstrap_draws=50, permutation_draws=199, quantile=0.02
)


def hand_made(n=40, rows=6, columns=5, seed=0):
    """One lesion cell per image, at a random position in a breast of 5 x 4 cells of 16 pixels."""
    rng = np.random.default_rng(seed)
    breast = np.zeros((n, rows, columns), np.float32)
    breast[:, :5, :4] = 16
    region = np.zeros_like(breast)
    lesion = rng.integers(0, 5, n), rng.integers(0, 4, n)
    region[np.arange(n), *lesion] = 16
    views = np.tile(["CC", "MLO"], n // 2)
    here = alignment.scene(breast, region, np.repeat(np.arange(n // 2), 2), views, 16)
    return here, lesion


def scored(here, activation, threshold=0.0):
    weights = st.patient_weights(here.patients, 50, 0)
    moves = exchange.patient_exchanges(here.patients, 199, 0, within=here.views)
    return alignment.score_map(here, activation, threshold, weights, moves)


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
    moves = exchange.patient_exchanges(here.patients, 199, 0, within=here.views)
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


def test_the_prior_is_scored_above_the_asked_share_of_breast_area():
    here, lesion = hand_made()
    prior = np.zeros(here.breast.shape, np.float32)
    prior[np.arange(40), *lesion] = 1 + np.arange(40)  # an image's lesion is a cell of twenty
    settings = SETTINGS.model_copy(update={"quantile": 10.5 / (40 * 20)})
    row = alignment._score_prior(settings, here, prior).iloc[0]
    assert row["pooled_iou"] == pytest.approx(10 / 40)


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
    assert alignment.upper_quantile(values, areas, 2.0) == 3.0
    assert alignment.upper_quantile(values, areas, 2.5) == 3.0
    assert alignment.upper_quantile(values, areas, 10.0) == 0.0


def test_matched_latents_fire_about_as_often_and_are_never_ranked():
    table = pd.DataFrame({"latent": np.arange(100), "firing_rate": np.linspace(0.001, 0.5, 100)})
    table.loc[99, "firing_rate"] = 0.0
    ranked = np.array([10, 50, 51])
    matched = alignment.matched_latents(table, ranked, 3, 0)
    assert matched.shape == (3, 3)
    assert not np.isin(matched, [*ranked, 99]).any()
    assert np.abs(matched - ranked[:, None]).max() <= 12


@pytest.fixture(scope="module")
def table(world, tmp_path_factory) -> pd.DataFrame:
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
        **common,
    )
    return read_table(root / "alignment.parquet")


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
