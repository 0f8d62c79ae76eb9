"""Snakemake learns the end of a SLURM job in every case, tested on a real SLURM (slurm.sh).

A toy workflow has one job, which hangs when it runs for the first time. The test acts on this job,
and the second run of the job ends at once.
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
from pathlib import Path

import pytest

SLURM = Path(__file__).with_name("slurm.sh")
SOURCE = Path(__file__).parents[2] / "src"

if shutil.which("slurmctld") is None and not os.environ.get("REQUIRE_SLURM"):
    pytest.skip("SLURM is not installed", allow_module_level=True)

pytestmark = [pytest.mark.workflow, pytest.mark.slurm, pytest.mark.soak]

SNAKEFILE = f"""
import sys
sys.path.insert(0, {str(SOURCE)!r})
from mammo_sae.slurm import settle_states
settle_states()

rule toy:
    output: "done"
    resources: mem_mb=100, runtime=lambda wildcards, attempt: attempt
    shell: "test -e go || {{{{ touch waiting; sleep 900; }}}}; touch {{output}}"
"""


def command(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def wait(condition: Callable[[], object], what: str, seconds: float = 120) -> object:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"after {seconds} s still not: {what}")


def node() -> str:
    return command("hostname", "-s").strip()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    subprocess.run([str(SLURM), "start"], check=True)
    yield
    subprocess.run([str(SLURM), "stop"], check=True)


def state(job: str) -> str:
    text = command("squeue", "--states=all", "--noheader", "--format=%T", "--job", job)
    return text.strip()


class Toy:
    """The toy workflow after its start, with its job hanging."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        (folder / "Snakefile").write_text(SNAKEFILE)
        self.log = folder / "log"
        words = [
            *(sys.executable, "-m", "snakemake", "--executor", "slurm", "--jobs", "2"),
            *("--slurm-no-requeue", "--slurm-status-command", "squeue", "--latency-wait", "5"),
            *("--slurm-init-seconds-before-status-checks", "2", "--retries", "1"),
            *("--default-resources", "slurm_partition=tests", *arguments),
        ]
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                words, cwd=folder, stdout=stream, stderr=subprocess.STDOUT
            )
        wait((folder / "waiting").exists, f"a job hanging: {self.log.read_text()}")
        [self.job] = self.jobs()

    def jobs(self) -> list[str]:
        return re.findall(r"submitted with SLURM jobid (\d+)", self.log.read_text())

    def ends(self, seconds: float = 180) -> str:
        """Let the next run of the job end at once, wait for Snakemake's success, return its log."""
        (self.folder / "go").touch()
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
            raise AssertionError(f"it waits for ever:\n{self.log.read_text()}") from None
        text = self.log.read_text()
        assert status == 0, text
        assert (self.folder / "done").exists()
        return text


@pytest.fixture
def toy(cluster, tmp_path) -> Iterator[Toy]:
    toy = Toy(tmp_path)
    yield toy
    toy.process.kill()
    subprocess.run(["scancel", "--user=root"], check=False)


def test_a_preempted_job_is_tried_again(toy):
    urgent = command(
        *("sbatch", "--parsable", "--partition=urgent", "--exclusive", "--mem=0"),
        *("--output=/dev/null", "--wrap=sleep 5"),
    )
    wait(lambda: state(toy.job) == "PREEMPTED", f"{toy.job} preempted by {urgent}")
    text = toy.ends()
    assert f"SLURM job {toy.job} is PREEMPTED; it counts as failed" in text
    assert len(toy.jobs()) == 2


def test_a_cancelled_job_is_tried_again(toy):
    command("scancel", toy.job)
    toy.ends()
    assert len(toy.jobs()) == 2


def test_a_job_whose_node_is_lost_is_tried_again(toy):
    command("scontrol", "update", f"nodename={node()}", "state=down", "reason=test")
    wait(lambda: state(toy.job) == "NODE_FAIL", "the job to have lost its node")
    wait(lambda: len(toy.jobs()) == 2, "the job to be submitted again")
    # The node may have come back by itself: its daemon is alive.
    subprocess.run(["scontrol", "update", f"nodename={node()}", "state=resume"], check=False)
    toy.ends()
    assert len(toy.jobs()) == 2


def test_a_job_over_its_time_limit_is_given_more(toy):
    toy.ends(300)
    assert len(toy.jobs()) == 2
    assert state(toy.job) == "TIMEOUT"


def test_a_suspended_job_goes_on_once_it_is_resumed(toy):
    command("scontrol", "suspend", toy.job)
    wait(lambda: state(toy.job) == "SUSPENDED", "the job to be suspended")
    time.sleep(5)
    assert toy.process.poll() is None
    command("scontrol", "resume", toy.job)
    command("scancel", toy.job)
    toy.ends()


def test_a_job_past_its_deadline_is_tried_again(toy):
    command("scontrol", "update", f"jobid={toy.job}", "deadline=now+65seconds")
    wait(lambda: state(toy.job) in ("DEADLINE", "TIMEOUT"), "the deadline to pass", 180)
    toy.ends()
    assert len(toy.jobs()) == 2


def test_a_job_that_slurm_forgets_is_tried_again(toy):
    # This is the state after a controller lost its data: squeue never shows the job again.
    command(str(SLURM), "stop")
    command(str(SLURM), "start")
    text = toy.ends()
    assert (
        f"SLURM job {toy.job} is no longer known, and its final state was not reported; it counts "
        "as failed" in text
    )
    assert len(toy.jobs()) == 2


def test_a_job_that_a_person_requeues_is_waited_for(cluster, tmp_path):
    toy = Toy(tmp_path, "slurm_extra='--requeue'")
    (tmp_path / "waiting").unlink()
    (tmp_path / "go").touch()
    command("scontrol", "requeue", toy.job)
    toy.ends(300)
    assert len(toy.jobs()) == 1


def test_a_job_requeued_and_held_is_cancelled_and_tried_again(cluster, tmp_path):
    toy = Toy(tmp_path, "slurm_extra='--requeue'")
    command("scontrol", "requeuehold", "state=SpecialExit", toy.job)
    text = toy.ends(300)
    assert f"SLURM holds job {toy.job}" in text
    assert len(toy.jobs()) == 2
