"""The display of a run: stages, jobs, time left, and the sentence on a failure."""

from __future__ import annotations

import io
import logging
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from mammo_sae.display import Progress, duration, failure, sentence, summary
from mammo_sae.watched import LogHandler


def test_stages_are_counted_in_the_order_of_the_data_flow():
    progress = Progress({})
    progress.plan({"table": 2, "images": 2, "train_sae": 1, "all": 1, "total": 6}, now=0.0)
    progress.start(1, "images", {"shard": "0"}, now=0.0)
    progress.start(2, "images", {"shard": "1"}, now=0.0)
    progress.finish(1, now=4.0)
    assert list(progress.stages()) == [
        ("images", 1, 2),
        ("SAEs", 0, 1),
        ("tables and figures", 0, 2),
    ]
    assert progress.jobs == (1, 5)
    assert progress.line(now=5.0) == "1 of 5 jobs; running images 1; 5 s so far"
    assert progress.block(now=5.0)[0] == ("images              [############............]  1/2")


def test_the_time_left_follows_from_jobs_of_the_same_rule():
    progress = Progress({})
    progress.plan({"codes": 5}, now=0.0)
    for job in range(4):
        progress.start(job, "codes", {}, now=10.0 * job)
        assert (progress.seconds_left(now=10.0 * job) is None) == (job < 3)
        progress.finish(job, now=10.0 * (job + 1))
    assert progress.seconds_left(now=40.0) == pytest.approx(10.0)
    progress.start(5, "codes", {}, now=40.0)
    assert progress.seconds_left(now=44.0) == pytest.approx(6.0)


def test_jobs_in_parallel_halve_the_time_left():
    progress = Progress({})
    progress.plan({"codes": 8}, now=0.0)
    for job in range(4):
        progress.start(job, "codes", {}, now=10.0 * (job // 2))
        progress.finish(job, now=10.0 * (job // 2) + 10.0)
    assert progress.seconds_left(now=20.0) == pytest.approx(20.0)


def test_an_unknown_rule_takes_its_planned_time_on_this_machine():
    """Three jobs that were planned with 10 s took 20 s, so one of 100 s will take 200 s."""
    progress = Progress({"codes": 10.0, "train_sae": 100.0})
    progress.plan({"codes": 3, "train_sae": 1}, now=0.0)
    for job in range(3):
        progress.start(job, "codes", {}, now=20.0 * job)
        progress.finish(job, now=20.0 * (job + 1))
    assert progress.seconds_left(now=60.0) == pytest.approx(200.0)


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (99, "99 s"), (300, "5 min"), (12_000, "3 h 20 min")]
)
def test_a_time_is_told_in_words(seconds, words):
    assert duration(seconds) == words


def test_a_failure_is_the_steps_own_message_with_rule_and_log(tmp_path):
    log = tmp_path / "0.log"
    log.write_text(
        "convert shard 0:  50%|##\rconvert shard 0: 100%|####\nerror: the file is bad; mend it\n"
    )
    assert failure("images", [str(log)]) == (
        f"error: the file is bad; mend it (rule images, log {log})"
    )


def test_a_failure_without_a_message_is_said_to_be_one(tmp_path):
    log = tmp_path / "0.log"
    log.write_text("Traceback (most recent call last):\nKeyError: 'x'\n\n")
    assert "ended without a message of its own" in failure("images", [str(log)])
    assert failure("images", [str(log)]).endswith("is: KeyError: 'x'")
    log.write_text("")
    assert "as it does if it is killed or memory is not enough; its log is" in (
        failure("images", [str(log)])
    )
    assert "killed" in failure("images", [])


@pytest.mark.parametrize(
    "text",
    [
        'WorkflowError in file "/a.smk", line 30:\ncohort.x: unknown key\n  File "/a", line 1',
        "WorkflowError:\ncohort.x: unknown key",
        "InputFunctionException in rule images in file x, line 9:\nError:\n"
        "cohort.x: unknown key\nWildcards:\nshard=0",
    ],
)
def test_an_error_of_the_workflow_is_told_without_its_place_in_the_rules(text):
    assert sentence(text).removeprefix("error: ").removeprefix("Error: ") == "cohort.x: unknown key"


def test_a_lock_is_explained():
    told = sentence("LockException:\nError: Directory cannot be locked. Please make sure ...")
    assert "remove its lock with `snakemake --unlock`" in told


def test_a_run_that_was_stopped_names_no_failure():
    assert summary(3, 9, ["error: x"], stopped=True) == [
        "stopped after 3 of 9 jobs; run it again to go on"
    ]
    assert summary(3, 9, ["error: x", "error: x"], stopped=False) == [
        "error: x",
        "failed after 3 of 9 jobs",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def events(monkeypatch):
    """Return a handler whose stream is a log, and a function that gives it an event."""

    def make(stream):
        monkeypatch.setattr("sys.stderr", stream)
        handler = LogHandler(SimpleNamespace(), None)

        def emit(event=None, message="", level=logging.INFO, **extra):
            record = logging.LogRecord("x", level, "x", 1, message, None, None)
            record.__dict__.update(event=event, **extra)
            handler.emit(record)

        return handler, emit

    return make


def run_two_jobs(emit, log):
    emit(LogEvent.RUN_INFO, stats={"images": 1, "codes": 1, "all": 1, "total": 3})
    emit(LogEvent.JOB_INFO, jobid=1, rule_name="images", wildcards={"shard": "0"})
    emit(LogEvent.JOB_FINISHED, job_id=1)
    emit(LogEvent.JOB_INFO, jobid=2, rule_name="codes", wildcards={})
    emit(LogEvent.JOB_ERROR, jobid=2, rule_name="codes", log=[str(log)])
    emit(LogEvent.ERROR, "WorkflowError:\nAt least one job did not complete successfully.")


def test_a_log_has_plain_lines_and_ends_with_the_failure(events, tmp_path):
    (tmp_path / "log").write_text("error: no room; make room\n")
    stream = io.StringIO()
    handler, emit = events(stream)
    run_two_jobs(emit, tmp_path / "log")
    handler.close()
    handler.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "2 jobs to run"
    assert lines[1] == "images: done"
    assert lines[2].startswith("1 of 2 jobs; ")
    assert lines[3:] == [
        f"error: no room; make room (rule codes, log {tmp_path / 'log'})",
        "failed after 1 of 2 jobs",
    ]


def test_a_terminal_has_a_block_that_is_redrawn(events, tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    handler, emit = events(stream)
    emit(LogEvent.RUN_INFO, stats={"images": 2})
    emit(LogEvent.JOB_INFO, jobid=1, rule_name="images", wildcards={"shard": "0"})
    emit(LogEvent.JOB_FINISHED, job_id=1)
    handler.close()
    told = stream.getvalue()
    assert "\x1b[2A\x1b[Jimages  [############............]  1/2\n1 of 2 jobs; " in told
    assert told.endswith("failed after 1 of 2 jobs\n")


def test_a_finished_run_and_one_without_work_end_without_an_error(events):
    stream = io.StringIO()
    handler, emit = events(stream)
    emit(None, "Nothing to be done (all requested files are present and up to date).")
    handler.close()
    assert stream.getvalue() == "Nothing to do: all results are there.\n"


def test_an_error_before_the_first_job_is_one_sentence(events):
    stream = io.StringIO()
    handler, emit = events(stream)
    emit(LogEvent.ERROR, 'WorkflowError in file "/a/b.smk", line 3:\nkey_file is missing; make one')
    handler.close()
    assert stream.getvalue() == "error: key_file is missing; make one\n"
