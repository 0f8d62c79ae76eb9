"""States of SLURM jobs are translated into states that Snakemake's plugin knows."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as plugin

from mammo_sae import slurm
from mammo_sae.slurm import LOOKS, Watch


@pytest.mark.parametrize(
    ("said", "told"),
    [
        *((state, state) for state in ("PENDING", "RUNNING", "COMPLETING", "COMPLETED")),
        *((state, state) for state in ("SUSPENDED", "REQUEUED", "CONFIGURING", "STOPPED")),
        *((state, state) for state in ("FAILED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL")),
        *((state, state) for state in ("DEADLINE", "OUT_OF_MEMORY", "CANCELLED")),
        ("CANCELLED by 0", "CANCELLED"),
        ("PREEMPTED", "FAILED"),
        ("REVOKED", "FAILED"),
        ("LAUNCH_FAILED", "FAILED"),
        ("SPECIAL_EXIT", "FAILED"),
        ("REQUEUE_HOLD", "FAILED"),
    ],
)
def test_every_state_becomes_one_that_the_plugin_ends_or_that_passes(said, told):
    watch = Watch()
    watch.active = {"7"}
    for _ in range(LOOKS):
        answer, held, _ = watch.settled({"7": said, "8": "RUNNING"})
    assert answer["7"] == told
    assert held == ({"7"} if said in slurm.HELD else set())
    assert answer["8"] == "RUNNING"


def test_a_job_missing_from_one_answer_is_waited_for_and_from_two_has_failed():
    watch = Watch()
    watch.active = {"7", "9_3"}
    assert watch.settled({"9": "RUNNING"})[0] == {"9": "RUNNING", "7": "MISSING"}
    assert watch.settled({"7": "RUNNING", "9": "RUNNING"})[2] == set()
    assert watch.settled({"9": "RUNNING"})[2] == set()
    assert watch.settled({"9": "RUNNING"})[2] == {"7"}


def test_a_preempted_job_that_slurm_runs_again_is_waited_for():
    watch = Watch()
    watch.active = {"7"}
    for state in ("PREEMPTED", "PENDING", "RUNNING", "PREEMPTED", "RUNNING"):
        assert watch.settled({"7": state})[2] == set()


def test_without_accounting_squeue_answers_in_place_of_sacct(monkeypatch):
    asked = []

    async def ask(command, logger):
        asked.append(command)
        return (None, None) if command.startswith("sacct") else ({"7": "COMPLETED"}, 0.1)

    class Executor:
        async def check_active_jobs(self, jobs):
            states, _ = await fake.query_job_status(plugin.query_job_status_sacct("run"), None)
            for job in jobs:
                if states[job.external_jobid] != "COMPLETED":
                    yield job

    fake = SimpleNamespace(
        query_job_status=ask,
        query_job_status_squeue=plugin.query_job_status_squeue,
        Executor=Executor,
    )
    monkeypatch.setitem(slurm.sys.modules, slurm.PLUGIN, fake)
    slurm.settle_states()
    slurm.settle_states()

    async def waited():
        jobs = [SimpleNamespace(external_jobid="7")]
        return [job async for job in Executor().check_active_jobs(jobs)]

    assert asyncio.run(waited()) == []
    assert len(asked) == 2
    assert "--name run" in asked[1]


def test_the_installed_plugin_is_the_one_that_this_is_for():
    """The plugin still has the replaced functions, and still does not know these final states."""
    source = plugin.__spec__.loader.get_source(plugin.__name__)
    assert "status_of_jobs, sacct_query_duration = await query_job_status(" in source
    assert callable(plugin.query_job_status)
    assert callable(plugin.Executor.check_active_jobs)
    fails = source.split("fail_stati = (")[1].split(")")[0]
    assert "FAILED" in fails
    assert "PREEMPTED" not in fails
