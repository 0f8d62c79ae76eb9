"""The benchmark of verdicts (`make truth`) on a small pool whose codes are made by construction."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo_sae.analysis.cases import Identity
from mammo_sae.grids import LayerGrid
from mammo_sae.phantom.settings import ARTEFACTS
from mammo_sae.stores.codes import create_codes_store
from mammo_sae.stores.images import ImageRecord, create_image_store
from mammo_sae.stores.tables import write_table

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "check_verdicts.py"
SPECIFICATION = importlib.util.spec_from_file_location("check_verdicts", SCRIPT)
check = importlib.util.module_from_spec(SPECIFICATION)
sys.modules["check_verdicts"] = check  # its data classes look their module up
SPECIFICATION.loader.exec_module(check)

GRID = LayerGrid("head", 4, 2, 2, 4, 0.0, 0.0, 7)
# Latents: four that respond to the mass, three to each of two artefacts, and noise.
RESPONDS = ["mass"] * 4 + ["marker"] * 3 + ["vendor"] * 3 + [""] * 14
MEASURED = ("marker_area", "edge_brightness", "mean_grey", "noise", "sharpness")
MEASURED += ("breast_area", "density_estimate")
check.SHARDS = range(1)
SCENARIOS = {scenario.name: scenario for scenario in check.SCENARIOS}


def draw_patients(rng) -> pd.DataFrame:
    rows = []
    for part in ("training", "test"):
        for number in range(check.POOL[part]):
            has = {"mass": int(rng.random() < 0.4)}
            has |= {name: int(rng.random() < check.RATE) for name in ARTEFACTS}
            for view in ("CC", "MLO"):
                rows.append(
                    {
                        "image_id": f"{part}{number}{view}", "patient_id": f"{part}{number}",
                        "split": part, "view": view, "side": "LR"[number % 2],
                        "density": "ABCD"[number % 4], "age_bin": ["40-49", "50-59"][number % 2],
                        "manufacturer": ["Aldermoor Imaging", "Brightwater Medical"][has["vendor"]],
                        "shard": 0, "rows": 8, "columns": 8, "birads": 1, "model": "one",
                        "pixel_spacing_mm": 0.1, **{k: v for k, v in has.items() if k != "vendor"},
                    }
                )  # fmt: skip
    table = pd.DataFrame(rows)
    table["mass"] = table["mass"].astype("Int8")
    return table


def write_codes(path: Path, ids: list[str], present: pd.DataFrame, rng) -> None:
    """Write codes in which a latent's score is high where its component is present."""
    on = np.stack([present[name] if name else np.zeros(len(ids)) for name in RESPONDS], axis=1)
    scores = (2 * on + rng.exponential(0.4, on.shape)).astype(np.float32)
    shape = (len(ids), GRID.rows, GRID.columns, len(RESPONDS))
    value = np.zeros(shape, np.float32)
    value[:, 0, 0] = scores
    index = np.broadcast_to(np.arange(len(RESPONDS)), shape)
    pooled = {"mean": scores / 4, "max": scores, "active": np.full_like(scores, 0.25)}
    pooled |= {f"{name}_breast": values for name, values in pooled.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with create_codes_store(
        path.with_name(path.name.removesuffix(".json") + ".zarr"), path,
        image_ids=ids, grid=GRID, latents=len(RESPONDS), k=len(RESPONDS),
    ) as writer:  # fmt: skip
        writer.write(range(len(ids)), np.where(value > 0, index, 0), value, pooled)


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(8)
    table = draw_patients(rng)
    write_table(table, folder / "cohort" / "images.parquet")
    write_table(
        pd.DataFrame({"image_id": table["image_id"], **dict.fromkeys(MEASURED, 1.0), "reason": ""}),
        folder / "measurements" / "0.parquet",
    )
    ids = table["image_id"].tolist()
    with create_image_store(
        folder / "images" / "0.zarr", folder / "images" / "0.json",
        image_ids=ids, height=8, width=8, regions=[],
    ) as writer:  # fmt: skip
        for position in range(len(ids)):
            writer.write(
                position,
                ImageRecord(np.zeros((8, 8), np.uint8), np.ones((8, 8), bool),
                            np.zeros((0, 8, 8), bool), np.eye(2, 3), False, 1.0),
            )  # fmt: skip
    present = table.assign(vendor=table["manufacturer"] == "Brightwater Medical")
    run = folder / "codes" / "pretrained" / "head" / "topk"
    write_codes(run / "seed0.json", ids, present.astype({"mass": int}), rng)
    pairs, rows = [], []
    for patient in range(30):
        for component in ("mass", *ARTEFACTS):
            on, off = f"{patient}-{component}", f"{patient}-{component}-off"
            pairs.append({"component": component, "patient": patient, "on": on, "off": off})
            base = {"mass": 0, **dict.fromkeys(ARTEFACTS, 0)}
            rows += [{"image_id": on, **base, component: 1}, {"image_id": off, **base}]
    write_table(pd.DataFrame(pairs), folder / "pairs" / "pairs.parquet")
    shown = pd.DataFrame(rows)
    write_codes(run / "seed0.pairs.json", shown["image_id"].tolist(), shown, rng)
    return folder


def scored(pool: Path, name: str) -> dict[str, tuple[int, int]]:
    identity = Identity("pretrained", "head", "topk", 0)
    rows = check.scored(check.Evaluated(pool, 5, identity, SCENARIOS[name]))
    return {row.measure: (row.hits, row.latents) for row in rows.itertuples()}


def test_the_latents_of_an_associated_artefact_are_called_and_no_others(pool):
    found = scored(pool, "marker 5")
    assert found["recall"] == (3, 3)
    assert found["precision"] == (3, 3)
    assert found["false_positive_rate"] == (0, 4)
    assert found["associated latents called"] == (3, 7)
    assert found["other latents called"] == (0, pytest.approx(17 * 11, abs=2 * 11))


def test_without_an_association_no_latent_is_called(pool):
    found = scored(pool, "null")
    assert "recall" not in found
    assert found["associated latents called"][0] == 0
    assert found["associated latents called"][1] >= 4
    hits, tested = found["p below 0.05 without a response"]
    assert tested > 100
    assert hits / tested < 0.12


def test_if_the_association_is_reversed_confounded_latents_lose_their_auroc(pool):
    found = scored(pool, "marker 8, reversed")
    assert found["confounded: AUROC falls by 0.05"] == (3, 3)
    assert found["aligned: AUROC falls by 0.05"] == (0, 4)


def test_if_the_association_is_repeated_confounded_latents_keep_their_auroc(pool):
    found = scored(pool, "marker 8, repeated")
    assert found["confounded: AUROC falls by 0.05"] == (0, 3)
    assert found["aligned: AUROC falls by 0.05"] == (0, 4)


def odds_ratio(patients: pd.DataFrame, artefact: str) -> float:
    counts = pd.crosstab(patients["mass"].astype(int), patients[artefact]).to_numpy(float)
    return counts[1, 1] * counts[0, 0] / counts[0, 1] / counts[1, 0]


@pytest.mark.parametrize("name", ["marker 2", "marker 20", "wire 5", "marker 8, reversed"])
def test_a_drawn_cohort_has_the_odds_ratio_of_its_scenario(pool, name):
    scenario = SCENARIOS[name]
    images = pd.read_parquet(pool / "cohort" / "images.parquet")
    drawn = check.draw_cohort(images, scenario, 3)
    patients = drawn.drop_duplicates("patient_id")
    assert (drawn.groupby("patient_id")["split"].nunique() == 1).all()
    wanted = {"training": scenario.odds_ratio, "test": scenario.odds_ratio}
    if scenario.external is not None:
        wanted["external"] = scenario.external
    for split, expected in wanted.items():
        here = patients[patients["split"] == split]
        count = scenario.test if split == "test" else check.DRAWN[split]
        assert 0.75 * count <= len(here) <= count
        assert odds_ratio(here, scenario.artefact) == pytest.approx(expected, rel=0.15)
    source = images.set_index("image_id")["split"].loc[drawn["image_id"]].to_numpy()
    assert set(source[drawn["split"] == "training"]) == {"training"}
    assert set(source[drawn["split"].isin(["test", "external"])]) == {"test"}
    assert ("external" in set(drawn["split"])) == (scenario.external is not None)


def test_with_unequal_images_some_patients_have_one_labelled_view(pool):
    images = pd.read_parquet(pool / "cohort" / "images.parquet")
    drawn = check.draw_cohort(images, SCENARIOS["null, unequal images"], 3)
    views = drawn.groupby("patient_id")["mass"].count()
    positive = images.groupby("patient_id")["mass"].first() == 1
    assert (views[~positive] == 1).mean() == pytest.approx(0.8, abs=0.05)
    assert (views[positive] == 1).mean() == pytest.approx(0.2, abs=0.05)
    assert set(views) == {1, 2}


def test_a_missed_goal_ends_the_script_with_status_1(capsys):
    row = {"scenario": "marker 5", "seed": 1, "encoder": "a", "layer": "head"}
    good = {**row, "measure": "recall", "hits": 9, "latents": 10}
    weak = {**row, "scenario": "marker 2", "measure": "recall", "hits": 1, "latents": 10}
    assert check.report(pd.DataFrame([good, weak])) == 0
    assert check.report(pd.DataFrame([{**good, "hits": 8}, weak])) == 1
    assert "marker 5, a, head: recall 8 of 10 (0.80)" in capsys.readouterr().out
    null = {**row, "scenario": "null", "measure": "associated latents called", "latents": 20}
    assert check.report(pd.DataFrame([{**null, "hits": 1}])) == 0
    assert check.report(pd.DataFrame([{**null, "hits": 2}])) == 1


def test_every_scenario_can_be_drawn_from_the_pool(pool):
    images = pd.read_parquet(pool / "cohort" / "images.parquet")
    for scenario in check.SCENARIOS:
        drawn = check.draw_cohort(images, scenario, 1)
        patients = drawn.drop_duplicates("patient_id")["split"].value_counts()
        assert 350 <= patients["training"] <= 400
        assert 0.8 * scenario.test <= patients["test"] <= scenario.test
