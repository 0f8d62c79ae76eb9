"""The workflow on a real SLURM (slurm.sh), through profiles/slurm.

One run tests all cases: it is interrupted and started again, one of its jobs is cancelled, and
another one hangs until its time is over. SLURM's time limits are in minutes, so the test takes
long.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mammo_sae.stores.publish import find_manifests, verify_store
from own_data_files import write_png

PROJECT = Path(__file__).parents[2]
SLURM = Path(__file__).with_name("slurm.sh")

if shutil.which("slurmctld") is None and not os.environ.get("REQUIRE_SLURM"):
    pytest.skip("SLURM is not installed", allow_module_level=True)

pytestmark = [pytest.mark.workflow, pytest.mark.slurm, pytest.mark.soak]

# Settings of this cluster that are not in the profile, and shorter waits than on a real cluster.
SITE = (
    *("--default-resources", "slurm_partition=tests"),
    *("--cores", "4"),
    *("--slurm-init-seconds-before-status-checks", "2"),
    *("--latency-wait", "5"),
)


@dataclass
class Job:
    """A SLURM job, from the output of `scontrol show job`."""

    id: int
    comment: str
    state: str
    start: str
    end: str
    limit: str
    gpus: int


def _jobs() -> list[Job]:
    text = subprocess.run(
        ["scontrol", "-o", "show", "job"], capture_output=True, text=True, check=True
    ).stdout
    jobs = []
    for line in text.splitlines():
        field = dict(re.findall(r"(\w+)=(\S*)", line))
        if "Comment" not in field:
            continue
        # Older and newer versions use different fields and words.
        asked = field.get("ReqTRES", "") + field.get("TresPerJob", "")
        gpus = re.search(r"gres[:/]gpu[:=](\d+)", asked)
        jobs.append(
            Job(
                id=int(field["JobId"]),
                comment=field["Comment"],
                state=field["JobState"],
                start=field["StartTime"],
                end=field["EndTime"],
                limit=field["TimeLimit"],
                gpus=int(gpus.group(1)) if gpus else 0,
            )
        )
    return sorted(jobs, key=lambda job: job.id)


def _command(*arguments: str) -> list[str]:
    return [
        *(sys.executable, "-m", "snakemake", "--profile", "profiles/slurm", *SITE),
        *(*arguments, "--configfile", "micro.yaml"),
    ]


def _start(project: Any, log: str) -> subprocess.Popen:
    with (project.folder / log).open("w") as stream:
        return subprocess.Popen(
            _command(),
            cwd=project.folder,
            stdout=stream,
            stderr=subprocess.STDOUT,
            # A shell's background jobs and their children ignore interrupts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def _wait(condition: Callable[[], object], what: str, seconds: float = 300) -> object:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"after {seconds} s still not: {what}")


def _running(project: Any, argument: str) -> list[int]:
    """Return the Python processes of the project's jobs whose command line holds `argument`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            here = (entry / "cwd").resolve() == project.folder.resolve()
        except (OSError, ValueError):
            continue
        if here and "mammo_sae" in words and "snakemake" not in words and argument in words:
            found.append(int(entry.name))
    return found


def _phantoms() -> list[Job]:
    return [job for job in _jobs() if job.comment.startswith("rule_phantom")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    subprocess.run([str(SLURM), "start"], check=True)
    yield
    subprocess.run([str(SLURM), "stop"], check=True)


@dataclass
class Run:
    """Observations of the run."""

    project: Any
    after_interrupt: list[Job]
    interrupt_took: float
    cancelled: int
    status: int
    log: str
    jobs: list[Job]

    def of(self, comment: str) -> list[Job]:
        """The jobs of the second start whose comment begins with the given text."""
        first = {job.id for job in self.after_interrupt}
        return [job for job in self.jobs if job.comment.startswith(comment) and job.id not in first]


@pytest.fixture(scope="module")
def run(cluster, micro_project, tmp_path_factory) -> Run:
    project = micro_project(tmp_path_factory.mktemp("slurm"))
    # One minute, SLURM's shortest, for the job that will hang.
    project.edit(
        "workflow/rules/cohort.smk",
        "runtime=minutes,",
        "runtime=lambda wildcards, attempt: attempt,",
    )

    snakemake = _start(project, "first.log")
    _wait(lambda: _running(project, "phantom"), "a job running")
    began = time.monotonic()
    snakemake.send_signal(signal.SIGINT)
    snakemake.wait(timeout=300)
    took = time.monotonic() - began
    # A cancelled job is completing until its processes are gone.
    _wait(lambda: "COMPLETING" not in {job.state for job in _jobs()}, "the jobs to be over")
    after_interrupt = _jobs()

    snakemake = _start(project, "second.log")
    [process] = _wait(
        lambda: _running(project, "results/micro/source/external"), "the job to stop running"
    )
    os.kill(process, signal.SIGSTOP)
    known = {job.id for job in after_interrupt}
    [victim] = [
        job.id for job in _phantoms() if job.id not in known and job.comment.endswith("_test")
    ]
    subprocess.run(["scancel", str(victim)], check=True)
    try:
        status = snakemake.wait(timeout=1500)
    finally:
        snakemake.kill()
    return Run(
        project=project,
        after_interrupt=after_interrupt,
        interrupt_took=took,
        cancelled=victim,
        status=status,
        log=(project.folder / "second.log").read_text(),
        jobs=_jobs(),
    )


def test_an_interrupt_cancels_every_job_and_ends_soon(run):
    assert run.interrupt_took < 120
    assert run.after_interrupt
    assert {job.state for job in run.after_interrupt} <= {"CANCELLED", "COMPLETED"}
    assert "CANCELLED" in {job.state for job in run.after_interrupt}


def test_the_run_is_finished_after_all_that(run):
    assert run.status == 0, run.log[-4000:]
    assert run.project.stale() == {}
    manifests = find_manifests(run.project.folder / "results")
    assert len(manifests) == 3 + 3 + 3 + 2 + 1  # archives, images, embeddings, codes, atlas
    assert [problem for manifest in manifests for problem in verify_store(manifest)] == []


def test_nothing_is_done_twice(run):
    done = [job.comment for job in run.of("rule_") if job.state == "COMPLETED"]
    assert len(done) == len(set(done)), done
    names = {comment.removeprefix("rule_").split("_wildcards")[0] for comment in done}
    assert {"phantom", "cohort", "train_sae", "codes", "latents", "confounds"} <= names


def test_a_cancelled_job_is_tried_again(run):
    test_part = run.of("rule_phantom_wildcards_test")
    assert [(job.id == run.cancelled, job.state) for job in test_part] == [
        (True, "CANCELLED"),
        (False, "COMPLETED"),
    ]


def test_a_job_over_its_time_limit_is_given_more(run):
    external = run.of("rule_phantom_wildcards_external")
    assert [(job.state, job.limit) for job in external] == [
        ("TIMEOUT", "00:01:00"),
        ("COMPLETED", "00:02:00"),
    ]


def test_jobs_that_use_torch_take_turns_on_the_one_gpu(run):
    jobs = sorted((job for job in run.jobs if job.gpus), key=lambda job: job.start)
    assert {job.gpus for job in jobs} == {1}
    assert len(jobs) >= 4
    assert all(earlier.end <= later.start for earlier, later in pairwise(jobs))


def test_shards_share_a_job_and_so_do_tables_and_figures(run):
    groups = [job for job in run.jobs if re.match("rule_(images|embeddings|report)", job.comment)]
    assert len(groups) == 3, [job.comment for job in groups]


def test_a_job_that_fails_is_explained_by_its_own_log(cluster, micro_project, tmp_path):
    project = micro_project(tmp_path)
    (project.folder / "overlay.yaml").write_text(
        "encoders: {pretrained: {source: {kind: mammo_clip, path: /nowhere/b5.tar}}}\n"
    )
    done = subprocess.run(
        [
            *_command("--retries", "0"),
            *("overlay.yaml", "--", "results/micro/encoders/pretrained/encoder.json"),
        ],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "/nowhere/b5.tar" in done.stdout + done.stderr


def _verb(project: Any, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mammo_sae", *words],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": str(project.folder / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


PICTURES = """\
images: {preprocessing: clinical, height: 96, width: 64}
layers: [head]
saes:
  topk: {variant: {name: topk, k: 4, k_aux: 8}, latents: 64, steps: 10, batch: 64}
"""


def test_one_command_runs_a_persons_images_on_slurm(cluster, micro_project, tmp_path):
    project = micro_project(tmp_path)
    profile = "profiles/slurm/profile.yaml"
    project.edit(profile, 'slurm_partition: "main"', 'slurm_partition: "tests"')
    project.edit(profile, "cores: 8", "cores: 4")
    project.edit(profile, "retries: 2", "retries: 0")
    waits = "latency-wait: 5\nslurm-init-seconds-before-status-checks: 2"
    project.edit(profile, "latency-wait: 60", waits)
    for number in range(16):
        side = "LR"[number % 2]
        write_png(project.folder / "own" / f"p{number // 2}_{side}_CC.png", side=side, seed=number)
    (project.folder / "sizes.yaml").write_text(PICTURES)
    told = _verb(project, "init", "own")
    assert told.returncode == 0, told.stderr
    before = {job.id for job in _jobs()}
    words = ["run", "mine.yaml", "sizes.yaml", "--slurm"]
    done = _verb(project, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ jobs to run$", done.stderr, re.MULTILINE)
    assert "SAEs: done" in done.stderr
    jobs = [job for job in _jobs() if job.id not in before]
    assert {job.state for job in jobs} == {"COMPLETED"}
    names = {job.comment.removeprefix("rule_").split("_wildcards")[0] for job in jobs}
    assert {"cohort", "train_sae", "codes"} <= names
    assert "Nothing to do: all results are there." in _verb(project, *words).stderr

    source = "{kind: mammo_clip, path: /nowhere/b5.tar}"
    lost = f"encoders: {{pretrained: {{kind: pretrained, source: {source}}}}}\n"
    (project.folder / "lost.yaml").write_text(lost)
    done = _verb(project, "run", "mine.yaml", "sizes.yaml", "lost.yaml", "--slurm")
    assert done.returncode == 1
    assert re.search(
        r"^error: .*/nowhere/b5\.tar.* \(rule import_encoder, log \S+\.log\)$",
        done.stderr,
        re.MULTILINE,
    ), done.stderr


def test_a_fine_tuned_encoder_is_extracted_after_its_base(cluster, micro_project, tmp_path):
    project = micro_project(tmp_path)
    (project.folder / "overlay.yaml").write_text(
        "encoders: {finetuned: {kind: finetuned, base: pretrained, freeze: blocks.4, "
        "recipe: {kind: fast, epochs: 1}}}\n"
    )
    before = {job.id for job in _jobs()}
    target = "results/micro/heads/finetuned/predictions.parquet"
    done = subprocess.run(
        [*_command("--retries", "0"), "overlay.yaml", "--", target],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert (project.folder / target).is_file()
    groups = [job.comment for job in _jobs() if job.id not in before]
    for encoder in ("pretrained", "finetuned"):
        assert any(name.startswith(f"rule_embeddings_{encoder}_") for name in groups), groups
