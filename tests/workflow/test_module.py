"""Another workflow uses this one as a module."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.workflow

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "install.md"
TARGET = "results/micro/tables/latents.csv"


def documented() -> str:
    """Return the Snakefile of the page."""
    (block,) = re.findall(r"^```snakemake\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return block


def plan(folder: Path, *words: str) -> tuple[dict[str, int], str]:
    """Return the number of planned jobs of each rule, and what Snakemake prints."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--cores", "1", *words],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-3000:]
    block = told.split("Job stats:")[-1]
    jobs = re.findall(r"^(\w+) +(\d+)$", block, re.MULTILINE)
    return {name: int(count) for name, count in jobs if name != "total"}, told


@pytest.fixture
def parent(tmp_path):
    """A folder with the documented workflow, which uses the workflow of this checkout."""
    text = documented()
    assert "/path/to/mammo-sae/Snakefile" in text
    text = text.replace("/path/to/mammo-sae/Snakefile", str(PROJECT / "Snakefile"))
    text = text.replace("results/phantom", "results/micro")
    (tmp_path / "Snakefile").write_text(text)
    micro = Path(__file__).with_name("micro.yaml").read_text()
    inside = "".join(f"  {line}\n" for line in micro.splitlines())
    (tmp_path / "parent.yaml").write_text(f"mammo_sae:\n{inside}")
    return tmp_path


def test_the_other_workflow_plans_the_jobs_that_this_one_plans(parent, tmp_path):
    jobs, _ = plan(parent)
    assert jobs.pop("best_latents") == 1
    alone = tmp_path / "alone"
    alone.mkdir()
    config = str(Path(__file__).with_name("micro.yaml"))
    mine, _ = plan(alone, "-s", str(PROJECT / "Snakefile"), TARGET, "--configfile", config)
    assert mine["train_sae"] == 1
    assert jobs == mine


def test_a_wrong_key_of_the_modules_configuration_ends_the_other_workflow(parent):
    with (parent / "parent.yaml").open("a") as file:
        file.write("  layerz: [head]\n")
    with pytest.raises(AssertionError, match="layerz"):
        plan(parent)
