"""Other sparsity rules and several seeds go through the same analyses and tables."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

pytestmark = [pytest.mark.workflow, pytest.mark.soak]

VARIANTS = ("l1", "batch_topk", "matryoshka", "jumprelu", "gated", "archetypal")
SMALL = {"latents": 64, "steps": 30, "batch": 64, "layers": {}}


@pytest.fixture(scope="module")
def run(micro_finished, tmp_path_factory):
    """The smallest run with an SAE of every other variant, and a second seed of TopK."""
    folder = tmp_path_factory.mktemp("variants") / "project"
    shutil.copytree(micro_finished.folder, folder)
    project = type(micro_finished)(folder, config=micro_finished.config)
    saes = {"topk": {"seeds": [0, 1]}}
    for name in VARIANTS:
        own = {"candidates": 32} if name == "archetypal" else {}
        saes[name] = {**SMALL, "variant": {"name": name, **own}}
    # The paper's own, as config/vindr.yaml has it; the size and the length are the test's.
    paper = yaml.safe_load((folder / "config" / "vindr.yaml").read_text())["saes"]["l1"]
    saes["l1"] = {**{key: paper[key] for key in paper.keys() - {"layers"}}, **SMALL}
    tables = ("sae_quality", "sae_stability", "latents", "interventions", "effects", "alignment",
              "confounds", "truth")  # fmt: skip
    targets = [f"results/micro/tables/{name}.parquet" for name in tables]
    project.snakemake(*targets, overlay=yaml.safe_dump({"saes": saes}))
    return {
        name: pd.read_parquet(folder / path) for name, path in zip(tables, targets, strict=True)
    }


def test_every_variant_has_its_rows_in_every_table(run):
    for name, table in run.items():
        if name != "sae_stability":
            assert set(table["sae"]) == {"topk", *VARIANTS}, name


def test_every_variant_reconstructs_something_with_few_latents(run):
    quality = run["sae_quality"].set_index("sae")
    assert np.isfinite(quality["explained_variance"]).all()
    assert (quality["l0"] > 0).all()
    assert (quality["l0"] <= 64).all()


def test_seeds_are_compared(run):
    [row] = run["sae_stability"].to_dict("records")
    assert (row["sae"], row["seed"], row["other_seed"]) == ("topk", 0, 1)
    assert 0 < row["cosine"] <= 1
