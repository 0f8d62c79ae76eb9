"""The plan of a run: jobs, memory and disk of its stages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from mammo_sae.config import load_config, read_config
from mammo_sae.plan import jobs, lines, plan
from mammo_sae.resources import NEEDS
from mammo_sae.stores.publish import write_json

PROJECT = Path(__file__).parents[1]
VINDR = PROJECT / "config" / "vindr.yaml"


def test_the_embeddings_of_twenty_thousand_images_have_the_size_of_their_arrays():
    stages = plan(read_config([VINDR]), 20_000)
    # docs/vindr.md: three layers and the pooled features of two encoders.
    per_image = 2 * (5415 * 176 + 1392 * (512 + 2048) + 2048)
    assert stages["embeddings"].bytes == pytest.approx(2 * 20_000 * per_image)
    assert stages["embeddings"].jobs == 2 * 40


def test_the_memory_of_a_stage_is_that_of_its_largest_job():
    stages = plan(read_config([VINDR]), 20_000)
    assert stages["SAEs"].mem_mb > 16_384  # the buffer of the configuration
    assert stages["cohort"].mem_mb == 1000


def test_the_plan_says_what_the_disk_lacks(tmp_path, monkeypatch):
    config = load_config({"results": str(tmp_path), "cohort": {
        "kind": "vindr", "source": "/nowhere", "shards": 10}}, "own")  # fmt: skip
    needed = sum(stage.bytes for stage in plan(config, 1000).values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 3e9))
    assert lines(config, 1000)[-1].startswith("The disk lacks 3.0 GB:")
    # Stores that are written need no more room.
    write_json(
        config.folder / "embeddings" / "pretrained" / "head" / "0.json", {"bytes": 2 * 10**9}
    )
    assert lines(config, 1000)[-1].startswith("The disk lacks 1.0 GB:")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    assert lines(config, 1000)[-1] == "The disk is large enough."


@pytest.mark.workflow
def test_the_plan_has_the_jobs_of_the_workflow(tmp_path):
    done = subprocess.run(
        [*(sys.executable, "-m", "snakemake", "-n", "--cores", "2", "--quiet", "rules"),
         *("--snakefile", str(PROJECT / "Snakefile"), "--directory", str(tmp_path))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    counted = {
        words[0]: int(words[1])
        for words in map(str.split, done.stdout.splitlines())
        if len(words) == 2 and words[0] in NEEDS and words[1].isdecimal()
    }
    planned = Counter()
    for step, count, _ in jobs(read_config([])):
        planned[step] += count
    assert planned == {step: count for step, count in counted.items() if step in planned}
    shown = ("table", "verdicts", "controls", "published", "summary", "configuration", "crate")
    assert all(
        step.startswith("figure_")
        or step in (*shown, "atlas", "table_page", "quarantine", "registry")
        for step in counted.keys() - planned.keys()
    )
