"""Other sparsity rules and several seeds go through the same analyses and tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

PROJECT = Path(__file__).parents[2]
pytestmark = [pytest.mark.workflow, pytest.mark.soak]

VARIANTS = ("l1", "batch_topk", "matryoshka", "jumprelu", "gated", "archetypal")
SMALL = {"latents": 64, "steps": 30, "batch": 64, "layers": {}}


TABLES = ("sae_quality", "sae_stability", "verdict_stability", "latents", "interventions",
          "effects", "alignment", "confounds", "truth")  # fmt: skip
TARGETS = [f"results/micro/tables/{name}.parquet" for name in TABLES]


@pytest.fixture(scope="module")
def saes():
    """An SAE of every other variant, and a second seed of TopK."""
    found = {"topk": {"seeds": [0, 1]}}
    for name in VARIANTS:
        own = {"candidates": 32} if name == "archetypal" else {}
        found[name] = {**SMALL, "variant": {"name": name, **own}}
    # The paper's values, as in config/vindr.yaml, but with a size and a length for this test.
    paper = yaml.safe_load((PROJECT / "config" / "vindr.yaml").read_text())["saes"]["l1"]
    found["l1"] = {**{key: paper[key] for key in paper.keys() - {"layers"}}, **SMALL}
    return found


@pytest.fixture(scope="module")
def project(micro_finished, saes, tmp_path_factory):
    """The smallest run, continued with these SAEs."""
    folder = tmp_path_factory.mktemp("variants") / "project"
    shutil.copytree(micro_finished.folder, folder)
    project = type(micro_finished)(folder, config=micro_finished.config)
    project.snakemake(*TARGETS, overlay=yaml.safe_dump({"saes": saes}))
    return project


@pytest.fixture(scope="module")
def run(project):
    return {
        name: pd.read_parquet(project.folder / path)
        for name, path in zip(TABLES, TARGETS, strict=True)
    }


def test_the_saes_of_a_layer_are_trained_in_one_pass(project, saes):
    logs = sorted((project.results / "logs" / "train_sae").glob("*/*/*/*.log"))
    layers = {log.parents[1] for log in logs}
    # TopK's first seed existed already, and the paper's L1 has its own buffer. One job trained all
    # other SAEs.
    together = [log for log in logs if f"and {len(saes) - 2} more" in log.read_text()]
    assert {log.parents[1] for log in together} == layers
    assert len(together) == len(layers)
    assert len([log for log in logs if "SAE " in log.read_text()]) == 3 * len(layers)
    assert not list(project.results.rglob("checkpoint.pt"))


def test_other_saes_of_a_pass_are_no_reason_to_train_an_sae_again(project, saes):
    layers = len({log.parents[1] for log in project.results.glob("logs/train_sae/*/*/*/*.log")})
    fewer = {name: values for name, values in saes.items() if name != "gated"}
    changed = {**fewer, "l1": {**fewer["l1"], "lr": 7.0e-4}}
    stale = project.stale(*TARGETS, overlay=yaml.safe_dump({"saes": changed}))
    assert stale["train_sae"] == layers
    assert stale["codes"] == 2 * layers  # of the cohort, and of the phantom's pairs


def test_every_variant_has_its_rows_in_every_table(run):
    for name, table in run.items():
        if name not in ("sae_stability", "verdict_stability"):
            assert set(table["sae"]) == {"topk", *VARIANTS}, name


def test_every_variant_reconstructs_something_with_few_latents(run):
    quality = run["sae_quality"].set_index("sae")
    assert np.isfinite(quality["explained_variance"]).all()
    assert (quality["l0"] > 0).all()
    assert (quality["l0"] <= 64).all()


def test_seeds_are_compared(run):
    verdicts = run["verdict_stability"]
    assert set(verdicts["sae"]) == {"topk"}
    pairs = verdicts[["seed", "other_seed"]].drop_duplicates().to_numpy().tolist()
    assert sorted(pairs) == [[0, 1], [1, 0]]
    [row] = run["sae_stability"].to_dict("records")
    assert (row["sae"], row["seed"], row["other_seed"]) == ("topk", 0, 1)
    assert 0 < row["cosine"] <= 1
