"""Snakemake with a display of stages, jobs and time left in place of its own messages.

`run` starts this module as a process, with the arguments of `snakemake`. Snakemake takes the class
`LogHandler` as it takes that of a package snakemake-logger-plugin-*.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from typing import Any, TextIO

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from mammo_sae.display import EXPECTED, Progress, failure, sentence, summary

LOGGER = "mammo-sae"
EVERY = 10.0  # seconds between lines in a log
REDRAW = 0.5  # seconds between drawings on a terminal


class LogHandler(LogHandlerBase):
    """Shows a run's progress: a block that is redrawn on a terminal, lines elsewhere."""

    def __post_init__(self) -> None:
        self.progress = Progress(json.loads(os.environ.get(EXPECTED, "{}")))
        self.stream: TextIO = sys.stderr
        self.failures: list[str] = []
        self.said = ""  # a message of Snakemake on the whole run
        self.stopped = False
        self._drawn = 0
        self._last = 0.0
        self._stages: set[str] = set()
        self._draws = threading.RLock()
        self._ended = threading.Event()
        self._terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        if self._terminal:
            threading.Thread(target=self._tick, daemon=True).start()

    @property
    def writes_to_stream(self) -> bool:
        """It replaces Snakemake's own messages."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """It writes no file. Snakemake's own log has all messages."""
        return False

    @property
    def has_filter(self) -> bool:
        """It chooses the messages itself."""
        return True

    @property
    def has_formatter(self) -> bool:
        """It words the messages itself."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """It draws no graph."""
        return False

    def emit(self, record: logging.LogRecord) -> None:
        """Take one event of Snakemake."""
        try:
            with self._draws:
                self._take(record)
        except Exception:
            self.handleError(record)

    def _take(self, record: Any) -> None:
        event, now = getattr(record, "event", None), time.monotonic()
        if event == LogEvent.RUN_INFO:
            self.progress.plan(record.stats, now)
            self._line(f"{self.progress.jobs[1]} jobs to run")
        elif event == LogEvent.JOB_INFO:
            self.progress.start(record.jobid, record.rule_name, dict(record.wildcards), now)
        elif event == LogEvent.JOB_FINISHED:
            self.progress.finish(record.job_id, now)
            self._show(now)
        elif event == LogEvent.JOB_ERROR:
            self.progress.fail(record.jobid)
            self.failures.append(failure(record.rule_name, record.log))
        elif event == LogEvent.GROUP_ERROR:
            for job in record.job_error_info:
                logs = [*job["log"], *record.aux_logs]
                self.failures.append(failure(job["rule_name"], logs))
        elif event == LogEvent.ERROR:
            self.said = self.said or sentence(record.getMessage())
        elif event is None:
            text = record.getMessage()
            if text.startswith("Nothing to be done"):
                self._line("Nothing to do: all results are there.")
            elif text.startswith("Terminating processes on user request"):
                self.stopped = True
                self._line("stopping the running jobs")
            elif record.levelno >= logging.WARNING and not self.failures:
                self._line(text.strip())

    def _show(self, now: float) -> None:
        if self._terminal:
            self._draw(now)
            return
        done = {stage for stage, ready, planned in self.progress.stages() if ready == planned}
        if done - self._stages or now - self._last >= EVERY:
            for stage in sorted(done - self._stages):
                self._line(f"{stage}: done")
            self._stages |= done
            self._last = now
            self._line(self.progress.line(now))

    def _line(self, text: str) -> None:
        """Print a line above the block."""
        self._clear()
        self.stream.write(f"{text}\n")
        if self._terminal:
            self._draw(time.monotonic())
        self.stream.flush()

    def _draw(self, now: float) -> None:
        self._clear()
        width = shutil.get_terminal_size().columns
        lines = self.progress.block(now) if self.progress.jobs[1] else []
        self.stream.write("".join(f"{line[: width - 1]}\n" for line in lines))
        self.stream.flush()
        self._drawn = len(lines)

    def _clear(self) -> None:
        if self._drawn:
            self.stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _tick(self) -> None:
        while not self._ended.wait(REDRAW):
            with self._draws:
                self._draw(time.monotonic())

    def close(self) -> None:
        """Print how the run ended, if it did not do all of its jobs."""
        with self._draws:
            if not self._ended.is_set():
                self._ended.set()
                self._terminal = False
                done, planned = self.progress.jobs
                if self.said and not self.failures and not self.stopped:
                    self._line(self.said)
                elif done < planned:
                    for line in summary(done, planned, self.failures, self.stopped):
                        self._line(line)
        super().close()


def main() -> None:
    """Run Snakemake with the words of the command line and end with its exit status."""
    from snakemake.cli import main as snakemake
    from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    # A shell's background jobs ignore the signal of Ctrl-C, by which `run` stops this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    LoggerPluginRegistry().register_plugin("mammo_sae", sys.modules[__name__])
    sys.argv = ["snakemake", *sys.argv[1:], "--logger", LOGGER]
    snakemake(sys.argv[1:])


if __name__ == "__main__":
    main()
