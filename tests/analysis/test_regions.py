from __future__ import annotations

import numpy as np
import pytest

from mammo_sae.analysis import cases as case
from mammo_sae.analysis.regions import region_table
from mammo_sae.analysis.settings import AlignmentSettings
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import ImageReader

SETTINGS = AlignmentSettings(bootstrap_draws=40, region_images=100)
IMAGE, BREAST = 96 * 64, 80 * 48


@pytest.fixture(scope="module")
def table(world):
    reader = CodesReader(world.codes)
    ranked = {
        "mass": np.array([world.latent("marker"), world.latent("tissue")]),
        "other": np.array([world.latent("tissue"), world.latent("dead")]),
    }
    cases = case.read_cases(world.images, reader.image_ids)
    return region_table(SETTINGS, reader, ImageReader(world.image_stores), cases, ranked)


def row(table, world, concept, latent, region):
    wanted = (table["concept"] == concept) & (table["region"] == region)
    return table[wanted & (table["latent"] == world.latent(latent))].iloc[0]


def test_a_latent_of_the_image_corner_fires_on_the_background(table, world):
    found = row(table, world, "mass", "marker", "background")
    assert found["images"] == 100
    assert found["energy_inside"] == pytest.approx(1.0)
    assert found["extent"] == pytest.approx(1 - BREAST / IMAGE)
    assert found["energy_lift"] == pytest.approx(1 / (1 - BREAST / IMAGE))
    assert found["energy_lift_low"] == pytest.approx(found["energy_lift_high"])
    assert row(table, world, "mass", "marker", "skin_line")["energy_lift"] == 0.0


def test_a_latent_of_all_tissue_has_the_lift_of_the_breast_on_every_part_of_it(table, world):
    for concept in ("mass", "other"):
        for region in ("skin_line", "nipple"):
            found = row(table, world, concept, "tissue", region)
            assert found["energy_lift"] == pytest.approx(IMAGE / BREAST, rel=1e-5)
        assert row(table, world, concept, "tissue", "background")["energy_lift"] == 0.0


def test_a_region_without_images_and_a_silent_latent_have_a_reason(table, world):
    absent = row(table, world, "mass", "tissue", "pectoral")
    assert absent["images"] == 0
    assert absent["reason"] == "fires in images of 0 patients with the region, fewer than 10"
    assert np.isnan(absent["energy_lift"])
    silent = row(table, world, "other", "dead", "background")
    assert silent["images"] == 100
    assert silent["fires"] == 0.0
    assert silent["reason"].startswith("fires in images of 0 patients")
