"""Two workflows in one folder, and the jobs that a call does not rerun after a step ran."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.soak]


def test_a_second_snakemake_in_the_folder_ends_with_a_message(micro_project, tmp_path):
    project = micro_project(tmp_path)
    first = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "micro.yaml"],
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        locks = project.folder / ".snakemake" / "locks"
        for _ in range(600):
            if locks.is_dir() and any(locks.iterdir()):
                break
            time.sleep(0.1)
        second = project.snakemake(check=False)
        assert second.returncode == 1
        assert "cannot be locked" in second.stdout + second.stderr
        assert first.poll() is None
    finally:
        first.terminate()
        first.wait(timeout=60)


@pytest.mark.parametrize("rule", ["cohort", "images", "extract", "train_sae", "codes", "latents"])
def test_the_same_content_again_spares_its_consumers_at_the_next_call(micro_finished, rule):
    micro_finished.snakemake("--forcerun", rule, "--until", rule)
    assert micro_finished.stale() == {}


def test_a_result_names_what_made_it(micro_finished):
    folder = micro_finished.results / "sae" / "pretrained" / "head" / "topk" / "seed0"
    [record] = folder.glob("*.provenance.json")
    content = json.loads(record.read_text())
    assert content["step"] == "train_sae"
    assert json.loads(content["config"])["lr"] == 0.003
    assert "results/micro/cohort/splits.parquet" in content["inputs"]
    assert {"sae.safetensors", "sae.json", "history.csv"} <= content["outputs"].keys()
    assert content["packages"]["torch"]
    assert content["machine"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "revision" in content
