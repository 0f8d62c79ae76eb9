"""Vision transformers of every pooling go through the whole workflow, also when fine-tuned."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

import vits

pytestmark = [pytest.mark.workflow, pytest.mark.soak]

POOLINGS = {"mean": "dinov2_with_registers", "cls": "dinov2_with_registers", "attention": "siglip"}
LAYERS = ["blocks.0", "blocks.1", "head"]


@pytest.fixture(scope="module")
def project(micro_project, tmp_path_factory):
    """A finished run whose encoders are vision transformers with random weights."""
    models = tmp_path_factory.mktemp("models")
    for kind in set(POOLINGS.values()):
        vits.write(kind, models / kind, patch_size=8, image_size=64)
    encoders = {
        pooling: {
            "kind": "pretrained",
            "source": {
                "kind": "transformers",
                "path": (models / kind).as_posix(),
                "pooling": pooling,
            },
        }
        for pooling, kind in POOLINGS.items()
    }
    encoders["finetuned"] = {
        "kind": "finetuned",
        "base": "mean",
        "freeze": "blocks.0",
        "recipe": {"epochs": 1, "most_cycles": 1},
    }
    overlay = {
        "encoders": {**encoders, "pretrained": None},
        "layers": LAYERS,
        "inner": {"layers": ["blocks.1"], "bootstrap_draws": 20},
    }
    project = micro_project(tmp_path_factory.mktemp("vits"))
    project.snakemake(overlay=yaml.safe_dump(overlay))
    return project


def table(project, name: str) -> pd.DataFrame:
    return pd.read_parquet(project.results / "tables" / f"{name}.parquet")


def test_interventions_are_where_predictions_depend_on_the_cells(project):
    found = table(project, "interventions")
    places = {tuple(row) for row in found[["encoder", "layer"]].drop_duplicates().to_numpy()}
    inner = {(encoder, "blocks.1") for encoder in (*POOLINGS, "finetuned")}
    assert places == inner | {("mean", "head"), ("finetuned", "head"), ("attention", "head")}
    attributed = table(project, "attribution")
    assert set(attributed.loc[attributed["layer"] == "head", "encoder"]) == {"attention"}
    assert np.isfinite(found.loc[found["reason"] == "", "auroc"]).all()


def test_heat_maps_are_scored_where_predictions_depend_on_the_cells(project):
    found = table(project, "saliency")
    places = {tuple(row) for row in found[["encoder", "layer"]].drop_duplicates().to_numpy()}
    everywhere = {(encoder, layer) for encoder in (*POOLINGS, "finetuned") for layer in LAYERS}
    assert places == everywhere - {("cls", "head")}


def test_the_frozen_layer_of_the_finetuned_encoder_is_its_bases(project):
    folder = project.results / "embeddings"
    assert not list((folder / "finetuned").rglob("blocks.0.zarr"))
    assert list((folder / "mean").rglob("blocks.0.zarr/prefix"))


def test_a_finished_run_is_not_stale(project):
    assert project.stale(overlay=(project.folder / "overlay.yaml").read_text()) == {}
