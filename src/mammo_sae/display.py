"""The progress of a run as text: stages, jobs, time left, and why it failed.

Nothing here knows Snakemake. `mammo_sae.watched` feeds it with Snakemake's events.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mammo_sae.errors import counted
from mammo_sae.plan import STAGES

REPORT = "tables and figures"
STAGE_OF = {step: stage for stage, steps in STAGES.items() for step in steps}
EXPECTED = "MAMMO_SAE_EXPECTED"
"""Variable of the environment with rule -> expected seconds, as JSON."""
TARGET = "all"  # the rule without work of its own
LEAST_JOBS = 3  # finished jobs before an estimate is shown
LEAST_SECONDS = 3.0  # a job's start alone takes this long
BAR = 24  # characters
LONGEST_LOG = 1 << 16  # bytes of a log's end that are read


class Progress:
    """The jobs of a run and their times.

    Parameters
    ----------
    expected
        Rule -> seconds that its job is expected to take. Rules that it lacks count as short.
    """

    def __init__(self, expected: Mapping[str, float]) -> None:
        self._expected = dict(expected)
        self._planned: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._running: dict[int, tuple[str, str, float]] = {}
        self._took: dict[str, list[float]] = defaultdict(list)
        self._began: float | None = None

    def plan(self, jobs: Mapping[str, int], now: float) -> None:
        """Take the number of jobs of each rule, and the time at which the run begins."""
        self._planned = Counter(
            {rule: n for rule, n in jobs.items() if rule not in {TARGET, "total"}}
        )
        self._began = now

    def start(self, job: int, rule: str, wildcards: Mapping[str, str], now: float) -> None:
        """Take the start of a job."""
        if rule != TARGET:
            self._running[job] = (rule, " ".join([rule, *map(str, wildcards.values())]), now)

    def finish(self, job: int, now: float) -> None:
        """Take the end of a job."""
        if job in self._running:
            rule, _, began = self._running.pop(job)
            self._done[rule] += 1
            self._took[rule].append(now - began)

    def fail(self, job: int) -> None:
        """Take the failure of a job, which may be tried again."""
        self._running.pop(job, None)

    @property
    def jobs(self) -> tuple[int, int]:
        """Numbers of finished and of all jobs."""
        return self._done.total(), self._planned.total()

    def stages(self) -> Iterator[tuple[str, int, int]]:
        """Yield stage, finished jobs and all jobs, in the order of the data flow."""
        done, planned = Counter[str](), Counter[str]()
        for counts, of_rules in ((done, self._done), (planned, self._planned)):
            for rule, number in of_rules.items():
                counts[STAGE_OF.get(rule, REPORT)] += number
        for stage in (*STAGES, REPORT):
            if planned[stage]:
                yield stage, done[stage], planned[stage]

    def seconds_left(self, now: float) -> float | None:
        """Return the time that the other jobs will take, None while it can't be told.

        A job is expected to take as long as the finished jobs of its rule. A job of another rule is
        expected to take the planned time, scaled by the ratio of measured and planned times so far.
        The sum is divided by the mean number of jobs that ran in parallel.
        """
        if self._began is None or self._done.total() < LEAST_JOBS:
            return None
        spent = sum(map(sum, self._took.values()))
        running = sum(now - began for _, _, began in self._running.values())
        planned = sum(self._guess(rule) * len(took) for rule, took in self._took.items())
        scale = spent / planned if planned else 1.0
        left = sum(
            max(0, number - self._done[rule])
            * (
                sum(self._took[rule]) / len(self._took[rule])
                if self._took.get(rule)
                else self._guess(rule) * scale
            )
            for rule, number in self._planned.items()
        )
        parallel = max(1e-9, (spent + running) / max(1e-9, now - self._began))
        return max(0.0, left - running) / max(parallel, 0.5)

    def _guess(self, rule: str) -> float:
        return max(LEAST_SECONDS, self._expected.get(rule, 0.0))

    def line(self, now: float) -> str:
        """Return jobs, running jobs, time since the start and time left, in one line."""
        done, planned = self.jobs
        parts = [f"{done} of {planned} jobs"]
        if self._running:
            names = [name for _, name, _ in self._running.values()]
            parts.append(f"running {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")
        if self._began is not None:
            parts.append(f"{duration(now - self._began)} so far")
        left = self.seconds_left(now)
        if left is not None and done < planned:
            parts.append(f"about {duration(left)} left")
        return "; ".join(parts)

    def block(self, now: float) -> list[str]:
        """Return the lines of a terminal: a bar per stage, and `line`."""
        stages = list(self.stages())
        width = max((len(stage) for stage, _, _ in stages), default=0)
        bars = []
        for stage, done, planned in stages:
            filled = BAR * done // planned
            bars.append(
                f"{stage:<{width}}  [{'#' * filled}{'.' * (BAR - filled)}]  {done}/{planned}"
            )
        return [*bars, self.line(now)]


def duration(seconds: float) -> str:
    """Return a time in words: "40 s", "5 min", "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def failure(rule: str, logs: Iterable[str]) -> str:
    """Return the one sentence on a failed job that matters: the step's own message, rule and log.

    Without a message of the step, it is the last line of the log.
    """
    paths = [Path(log) for log in logs]
    for path in paths:
        lines = _end(path)
        own = [line for line in lines if line.startswith("error: ")]
        if own:
            return f"error: {own[-1].removeprefix('error: ')} (rule {rule}, log {path})"
    for path in paths:
        lines = [line for line in _end(path) if line.strip()]
        if lines:
            return (
                f"error: the job of rule {rule} ended without a message of its own; the last line "
                f"of its log {path} is: {lines[-1].strip()}"
            )
    where = f"; its log is {paths[0]}" if paths else ""
    return (
        f"error: the job of rule {rule} ended without a message, as it does if it is killed or "
        f"memory is not enough{where}"
    )


def _end(path: Path) -> list[str]:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - LONGEST_LOG))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return []
    # A bar of progress is redrawn in its line.
    return [line.rsplit("\r", 1)[-1] for line in text.splitlines()]


def sentence(text: str) -> str:
    """Return the message of an exception of Snakemake, without its place in the rules."""
    if "Directory cannot be locked" in text:
        return (
            "error: another run writes here, or one was killed; if none runs, remove its lock with "
            "`snakemake --unlock`, --configfile and the same configuration"
        )
    lines = [line.strip() for line in text.splitlines()]
    if "Wildcards:" in lines:
        del lines[lines.index("Wildcards:") :]
    kept = [
        line
        for line in lines
        if line
        and not line.startswith("File ")
        and not re.fullmatch(r"\w+(Error|Exception)( in (file|rule) .*)?:?", line)
    ]
    return f"error: {' '.join(kept or [text.strip()])}"


def summary(done: int, planned: int, failures: Sequence[str], stopped: bool) -> list[str]:
    """Return the last lines of a run that did not end with all jobs done."""
    if stopped:
        return [f"stopped after {done} of {counted(planned, 'job')}; run it again to go on"]
    distinct = list(dict.fromkeys(failures))
    return [*distinct, f"failed after {done} of {counted(planned, 'job')}"]
