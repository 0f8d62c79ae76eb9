"""The formulas of memory and time, compared with the measurements of `make rehearsal`."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mammo_sae import resources
from mammo_sae.analysis import cells, streamed
from mammo_sae.config import load_config
from mammo_sae.encoders.architectures import architecture
from mammo_sae.resources import NEEDS, cohort_images, need
from mammo_sae.steps import STEPS
from mammo_sae.stores.tables import write_table

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MEASURES = json.loads((BENCHMARKS / "rehearsal.json").read_text())
LEAST = 1000  # MB that every rule asks for


@pytest.fixture(scope="module")
def rehearsal():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        found = importlib.util.spec_from_file_location("rehearsal", BENCHMARKS / "rehearsal.py")
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def config_of(rehearsal, images, latents):
    text = rehearsal.configuration(images, latents, Path("results"))
    return load_config(yaml.safe_load(text), "rehearsal")


@pytest.mark.parametrize(
    "measure", MEASURES, ids=lambda m: f"{m['step']}-{m['images']}-{m['latents']}"
)
def test_a_step_asks_for_more_than_it_was_measured_to_use_and_not_for_much_more(rehearsal, measure):
    config = config_of(rehearsal, measure["images"], measure["latents"])
    asked = need(config, measure["images"], measure["step"], **rehearsal.names(measure["step"]))
    used = measure["mib"] * 1.048576
    assert 1.2 * used <= asked.mem_mb <= max(LEAST, 4 * used)
    assert asked.minutes * 60 >= 2 * measure["cpu_seconds"]


def test_every_step_has_a_formula():
    assert NEEDS.keys() == STEPS.keys() | {"fetch_checkpoint"}


def test_memory_follows_features_latents_pixels_and_the_buffer(rehearsal):
    def asked(step, images=4000, latents=16384, change=None):
        config = config_of(rehearsal, images, latents)
        config = (
            config
            if change is None
            else load_config({**config.model_dump(mode="json"), **change}, "changed")
        )
        return need(config, images, step, "tuned", "head", "topk").mem_mb

    # Pooled codes are read in blocks. Only the tables of the cohort grow with the images.
    assert asked("interventions", images=40_000) < 1.2 * asked("interventions")
    assert asked("absorption", images=40_000) < 1.2 * asked("absorption")
    assert asked("sae_stability", latents=65536) > 2 * asked("sae_stability")
    small = {"images": {"preprocessing": "mammo_clip", "height": 384, "width": 256}}
    assert asked("figure_latents", change=small) < asked("figure_latents")
    # The buffer of an SAE's training is a setting, and the largest part of its memory.
    saes = {"topk": {"latents": 16384, "buffer": 16384, "seeds": [0, 1]}}
    grown = asked("train_sae", change={"saes": saes}) - asked("train_sae")
    assert grown == pytest.approx(1.5 * 1.2 * (16384 - 2048), rel=0.05)


def changed(config, **sections):
    return load_config({**config.model_dump(mode="json"), **sections}, "changed")


@pytest.mark.parametrize("step", ["latents", "effects", "reliance", "ablation", "confounds"])
def test_a_step_asks_for_the_draws_of_all_patients_at_embeds_size(rehearsal, step):
    section = "effects" if step == "reliance" else step
    config = config_of(rehearsal, 480_000, 16384)
    many = changed(config, **{section: {"bootstrap_draws": 1000}})
    few, more = (need(one, 480_000, step, "tuned", "head", "topk") for one in (config, many))
    concepts = 2 if step == "latents" else 1
    assert more.mib - few.mib == pytest.approx(concepts * 120_000 * 800 / 2**20)
    assert more.seconds == 5 * few.seconds


def test_more_concepts_ask_for_more_time_and_memory(rehearsal):
    config = config_of(rehearsal, 20_000, 16384)
    cohort = config.model_dump(mode="json")["cohort"]
    cohort["concepts"] = {f"c{n}": f"Finding {n}" for n in range(16)}
    many = changed(config, cohort=cohort)
    for step in ("latents", "confounds", "alignment"):
        few, more = (need(one, 20_000, step, "tuned", "head", "topk") for one in (config, many))
        assert more.seconds == 8 * few.seconds
        assert more.mib > few.mib


def test_alignment_asks_for_the_cells_and_the_curves_of_an_inner_layer(rehearsal):
    config = config_of(rehearsal, 20_000, 16384)
    head, inner = (
        need(config, 20_000, "alignment", "tuned", of, "topk") for of in ("head", "blocks.26")
    )
    # 95 x 57 cells against 48 x 29, with 32 codes each.
    assert (inner.seconds - 60) / (head.seconds - 60) == pytest.approx(5415 / 1392)
    # 240 maps, and three times the 60 ranked ones, with two tables of 512 levels x 201 draws.
    tables = (240 + 3 * 60) * 2 * 512 * 201 * 8 / 2**20
    assert inner.mib > 300 + 5 * 128 + tables


@pytest.mark.parametrize("step", ["linear_probe", "absorption", "ablation", "sae_quality"])
def test_the_pooled_features_of_more_images_ask_for_no_more_than_their_tables(rehearsal, step):
    few, many = (
        need(config_of(rehearsal, n, 16384), n, step, "tuned", "head", "topk").mib
        for n in (20_000, 480_000)
    )
    assert many - few <= 0.46 * resources.TABLES + 0.25 * 460_000 * 200 / 2**20


def test_training_asks_for_the_preactivations_of_a_batch_on_a_cpu(rehearsal):
    found = []
    for batch in (2048, 16384):
        saes = {"topk": {"latents": 65536, "batch": batch, "seeds": [0, 1]}}
        config = changed(config_of(rehearsal, 4000, 65536), saes=saes)
        found.append(need(config, 4000, "train_sae", "tuned", "head", "topk").mib)
    # 4 GiB for 16,384 cells and 65,536 latents in float32; a small batch fits below a GPU's 2,500.
    assert found[1] - found[0] == pytest.approx(450 + 4 * 4096 - 2500)


def test_the_formulas_have_the_limits_of_the_code():
    assert resources.CURVE_CELLS == streamed.CURVE_CELLS
    assert resources.LEVELS == streamed.LEVELS
    assert resources.OF_CODE == cells.BYTES_PER_CODE


def test_another_attempt_of_a_small_step_is_the_least_amount_and_time():
    config = load_config({}, "defaults")
    asked = need(config, 1500, "registry")
    assert (asked.mem_mb, asked.minutes) == (LEAST, 30)


@pytest.mark.parametrize(
    ("name", "height", "width", "giga"),
    [
        ("efficientnet-b5", 1520, 912, 132),
        ("efficientnet-b2", 1520, 912, 37),
        ("efficientnet-lite0", 384, 256, 1.6),
    ],
)
def test_the_operations_of_networks_are_those_that_torch_counted(name, height, width, giga):
    assert architecture(name).operations(height, width) == pytest.approx(giga * 1e9, rel=0.07)


def test_the_number_of_images_comes_from_the_phantoms_plan_or_the_cohorts_table(tmp_path):
    phantom = {"results": str(tmp_path), "phantom": {"breasts": "both"}}
    assert cohort_images(load_config(phantom, "phantom")) == 4 * (400 + 200 + 150)
    own = load_config(
        {"results": str(tmp_path), "cohort": {"kind": "vindr", "source": "/nowhere"}}, "own"
    )
    assert cohort_images(own) is None
    write_table(pd.DataFrame({"image_id": list("abc")}), own.folder / "cohort" / "images.parquet")
    assert cohort_images(own) == 3


@pytest.mark.parametrize("latents", sorted({row["latents"] for row in MEASURES}))
def test_the_page_on_scale_shows_the_measurements(rehearsal, latents):
    page = (Path(__file__).parents[1] / "docs" / "scale.md").read_text()
    table = rehearsal.summary([row for row in MEASURES if row["latents"] == latents])
    assert rehearsal.markdown(table) in page


def test_at_the_papers_size_every_step_stays_below_2_gib_and_10_minutes_of_a_core():
    found = [row for row in MEASURES if row["images"] == 20_000 and row["latents"] == 16_384]
    assert len(found) >= 30
    assert all(row["mib"] < 2048 and row["cpu_seconds"] < 600 for row in found)
