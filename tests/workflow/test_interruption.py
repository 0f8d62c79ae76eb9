"""After SIGKILL at random moments no incomplete file counts as complete."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mammo_sae.stores.publish import find_manifests, verify_store

pytestmark = [pytest.mark.workflow, pytest.mark.soak]

SEED = 7
# After each kill the workflow must start again and repeat its running jobs. For more kills:
# KILLS=100 python -m pytest tests/workflow/test_interruption.py
KILLS = int(os.environ.get("KILLS", "20"))
VICTIMS = ("snakemake", "job", "both")


def _digests(results: Path) -> dict[str, str]:
    """Return the digests of all content, without logs, timings and provenance."""
    found = {}
    for path in sorted(results.rglob("*")):
        name = path.relative_to(results)
        if not path.is_file() or name.parts[0] in {"logs", "benchmarks"}:
            continue
        if path.name == ".snakemake_timestamp" or "provenance" in path.name:
            continue
        found[name.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _targets(project) -> list[str]:
    """The tables of the only SAE. The outputs computed from them use the same functions."""
    folder = "results/micro/analysis/pretrained/head/topk/seed0"
    names = ("quality", "interventions", "effects", "probes", "alignment", "truth")
    return [f"{folder}/{name}.parquet" for name in names]


def _start(project) -> subprocess.Popen:
    with (project.folder / "output.log").open("a") as stream:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "snakemake", "--cores", "2", *_targets(project)),
                *("--configfile", "micro.yaml"),
            ],
            cwd=project.folder,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def _steps(project) -> list[int]:
    """Return the processes of this project's jobs, including orphans."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            here = (entry / "cwd").resolve() == project.folder.resolve()
        except (OSError, ValueError):
            continue
        if here and words[1:3] == ["-m", "mammo_sae"]:
            found.append(int(entry.name))
    return found


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def clean(micro_finished) -> dict[str, str]:
    """The digests of an undisturbed run, for the files that `_targets` need."""
    digests = _digests(micro_finished.results)
    beyond = ("tables", "figures", "configuration", "ro-crate")
    return {name: digest for name, digest in digests.items() if not name.startswith(beyond)}


def test_kills_at_random_moments_leave_no_trace(clean, micro_project, tmp_path):
    project = micro_project(tmp_path)
    chance = random.Random(SEED)
    killed = dict.fromkeys(VICTIMS, 0)
    finished = 0
    while sum(killed.values()) < KILLS:
        snakemake = _start(project)
        # Parsing takes some two seconds; then jobs of two to eight follow each other.
        try:
            snakemake.wait(timeout=chance.uniform(2, 9))
        except subprocess.TimeoutExpired:
            steps = _steps(project)
            victim = chance.choice(VICTIMS if steps else VICTIMS[:1])
            killed[victim] += 1
            if victim != "job":
                _kill(snakemake.pid)
            if victim != "snakemake":
                for step in steps:
                    _kill(step)
        # A workflow whose job was killed reports it and ends. The other job may finish.
        if snakemake.wait(timeout=120) == 0:
            assert _digests(project.results) == clean
            finished += 1
            for orphan in _steps(project):
                _kill(orphan)
            shutil.rmtree(project.results)
        project.snakemake("--unlock")
    project.snakemake(*_targets(project))
    assert _digests(project.results) == clean, (killed, finished)
    assert [
        problem for path in find_manifests(project.results) for problem in verify_store(path)
    ] == []
