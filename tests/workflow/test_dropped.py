"""The key `keep_embeddings: until_codes` in real runs."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

pytestmark = pytest.mark.workflow

DROP = "keep_embeddings: until_codes\n"


def test_embeddings_are_dropped_after_a_run_and_made_again_for_an_edited_sae(
    micro_finished, tmp_path
):
    project = replace(micro_finished, folder=tmp_path / "copy")
    shutil.copytree(micro_finished.folder, project.folder)
    embeddings = project.results / "embeddings" / "pretrained"
    manifests = sorted(embeddings.glob("*/*.json"))
    before = {path: path.read_bytes() for path in manifests if "provenance" not in path.name}
    times = {path: path.stat().st_mtime_ns for path in before}
    maps = [path.with_suffix("") / "head.zarr" for path in before]
    assert all(path.is_dir() for path in maps)
    # Only the pages that show the configuration depend on the key.
    assert project.stale(overlay=DROP).keys() == {"atlas", "configuration", "crate"}

    # A run that ends drops the maps, and nothing is stale after it.
    project.snakemake(overlay=DROP)
    assert not any(path.exists() for path in maps)
    assert project.stale(overlay=DROP) == {}

    edited = DROP + "saes: {topk: {steps: 11}}\n"
    jobs = project.stale(overlay=edited)
    assert jobs["train_sae"] == 1
    assert not {"extract", "linear_probe", "evaluate_encoder"} & jobs.keys()
    project.snakemake(overlay=edited)
    # Made again with the same bytes for the SAE, and dropped again.
    assert {path: path.read_bytes() for path in before} == before
    assert all(path.stat().st_mtime_ns > times[path] for path in before)
    assert (
        "extract" in (project.results / "logs/train_sae/pretrained/head/topk/seed0.log").read_text()
    )
    assert not any(path.exists() for path in maps)
    assert project.stale(overlay=edited) == {}
