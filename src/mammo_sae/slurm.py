"""SLURM's answers about jobs, made final where Snakemake's plugin would wait for ever.

The plugin (2.8) knows a job as done, as failed, or as going on. It takes for going on what never
ends: a job that was preempted and is not requeued, one that was revoked, one that `sacct` calls
"CANCELLED by 0", one that is held after it failed to start, and one of which SLURM says nothing
any more. Here these are told to it as failed, so that they are tried again.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

PLUGIN = "snakemake_executor_plugin_slurm"
# States that are final, or that only an administrator ends, and that the plugin does not know.
LOST = {"REVOKED", "EXPIRED", "LAUNCH_FAILED", "RECONFIG_FAIL"}
HELD = {"REQUEUE_HOLD", "SPECIAL_EXIT"}
# States that may pass; seen as often in a row, they have not. A job that is missing counts alike.
DOUBTFUL = {"PREEMPTED", "MISSING"}
LOOKS = 2


class Watch:
    """What SLURM has said of the jobs that Snakemake waits for."""

    def __init__(self) -> None:
        self.active: set[str] = set()
        self._doubts: Counter[str] = Counter()

    def settled(self, states: Mapping[str, str]) -> tuple[dict[str, str], set[str], set[str]]:
        """Return states the plugin understands, the jobs to cancel, and those that are lost.

        A job is lost when it has been missing, or has been preempted, for `LOOKS` answers in a row.
        """
        answer = {job: state.split()[0] if state else state for job, state in states.items()}
        # A job of an array is listed under its own number or under the array's.
        missing = {
            job for job in self.active if job not in answer and job.split("_")[0] not in answer
        }
        answer |= dict.fromkeys(missing, "MISSING")
        held = {job for job, state in answer.items() if state in HELD and job in self.active}
        for job, state in answer.items():
            self._doubts[job] = self._doubts[job] + 1 if state in DOUBTFUL else 0
        lost = {job for job in self.active if self._doubts[job] >= LOOKS}
        for job, state in answer.items():
            if job in lost or state in LOST | HELD:
                answer[job] = "FAILED"
        return answer, held, lost


def settle_states() -> None:
    """Let the plugin, if it is there, be told of states that it understands."""
    plugin: Any = sys.modules.get(PLUGIN)
    if plugin is None or getattr(plugin.Executor, "settled", False):
        return
    watch = Watch()
    ask, check = plugin.query_job_status, plugin.Executor.check_active_jobs

    async def query_job_status(command: str, logger: Any) -> tuple[Any, Any]:
        states, seconds = await ask(command, logger)
        if states is None and command.startswith("sacct"):
            # Without accounting sacct never answers; squeue does.
            name = command.rsplit("--name ", 1)[-1]
            states, seconds = await ask(plugin.query_job_status_squeue(name), logger)
        if states is None:
            return states, seconds
        answer, held, lost = watch.settled(states)
        for job in sorted(held):
            await (await asyncio.create_subprocess_exec("scancel", job)).wait()
            logger.warning(f"SLURM holds job {job} and would not run it; it was cancelled")
        for job in sorted(lost):
            said = states.get(job, "gone, without a word of how it ended")
            logger.warning(f"SLURM job {job} is {said}; it counts as failed")
        return answer, seconds

    async def check_active_jobs(self: Any, active_jobs: Any) -> AsyncIterator[Any]:
        watch.active = {job.external_jobid for job in active_jobs}
        async for job in check(self, active_jobs):
            yield job

    plugin.query_job_status = query_job_status
    plugin.Executor.check_active_jobs = check_active_jobs
    plugin.Executor.settled = True
