"""Final states for SLURM jobs for which Snakemake's plugin would wait for ever.

The plugin (2.8) treats a job as done, failed or running. Some jobs never end, but the plugin treats
them as running: a job that was preempted and is not requeued, a job that was revoked, a job that
`sacct` reports as "CANCELLED by 0", a job that is held after it failed to start, and a job that
SLURM no longer knows. This module reports these jobs to the plugin as failed, so that they are
tried again.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

PLUGIN = "snakemake_executor_plugin_slurm"
# States that the plugin does not know. They are final, or only an administrator can end them.
LOST = {"REVOKED", "EXPIRED", "LAUNCH_FAILED", "RECONFIG_FAIL"}
HELD = {"REQUEUE_HOLD", "SPECIAL_EXIT"}
# States that may be temporary. After this number of answers in a row they count as final. The same
# holds for a missing job.
DOUBTFUL = {"PREEMPTED", "MISSING"}
LOOKS = 2


class Watch:
    """The states that SLURM has reported for the jobs that Snakemake waits for."""

    def __init__(self) -> None:
        self.active: set[str] = set()
        self._doubts: Counter[str] = Counter()

    def settled(self, states: Mapping[str, str]) -> tuple[dict[str, str], set[str], set[str]]:
        """Return states that the plugin knows, the jobs to cancel, and the lost jobs.

        A job is lost when it has been missing, or has been preempted, for `LOOKS` answers in a row.
        """
        answer = {job: state.split()[0] if state else state for job, state in states.items()}
        # A job of an array is listed under its own number or under the number of the array.
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
    """Make the plugin, if it is installed, receive only states that it knows."""
    plugin: Any = sys.modules.get(PLUGIN)
    if plugin is None or getattr(plugin.Executor, "settled", False):
        return
    watch = Watch()
    ask, check = plugin.query_job_status, plugin.Executor.check_active_jobs

    async def query_job_status(command: str, logger: Any) -> tuple[Any, Any]:
        states, seconds = await ask(command, logger)
        if states is None and command.startswith("sacct"):
            # Without accounting sacct never answers, but squeue does.
            name = command.rsplit("--name ", 1)[-1]
            states, seconds = await ask(plugin.query_job_status_squeue(name), logger)
        if states is None:
            return states, seconds
        answer, held, lost = watch.settled(states)
        for job in sorted(held):
            await (await asyncio.create_subprocess_exec("scancel", job)).wait()
            logger.warning(f"SLURM holds job {job} and would not run it; it was cancelled")
        for job in sorted(lost):
            said = states.get(job, "no longer known, and its final state was not reported")
            logger.warning(f"SLURM job {job} is {said}; it counts as failed")
        return answer, seconds

    async def check_active_jobs(self: Any, active_jobs: Any) -> AsyncIterator[Any]:
        watch.active = {job.external_jobid for job in active_jobs}
        async for job in check(self, active_jobs):
            yield job

    plugin.query_job_status = query_job_status
    plugin.Executor.check_active_jobs = check_active_jobs
    plugin.Executor.settled = True
