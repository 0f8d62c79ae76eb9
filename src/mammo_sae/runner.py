"""Start Snakemake for a configuration, with a display of its progress."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mammo_sae.config import WORKFLOW, Config, read_config
from mammo_sae.digests import SOURCE
from mammo_sae.display import EXPECTED
from mammo_sae.errors import InputError
from mammo_sae.plan import count_images, jobs
from mammo_sae.resources import NEEDS, Size


def start_run(
    configs: Sequence[Path], *, cores: int | None, on_slurm: bool, with_report: bool
) -> int:
    """Run the workflow, then make its report, and return Snakemake's exit status.

    Parameters
    ----------
    configs
        Configurations. Values of later files replace earlier ones. If empty, the default is used.
    cores
        Most cores of local jobs; None: all, or the number in the profile of the cluster.
    on_slurm
        Whether jobs are submitted to SLURM, with the profile in profiles/slurm.
    with_report
        Whether to make the report after a run without failure.

    Raises
    ------
    InputError
        If the configuration is wrong, or there is no profile of the cluster.
    """
    config = read_config(configs)
    words = ["--snakefile", str(WORKFLOW / "Snakefile")]
    chosen = ["--configfile", *map(str, configs)] if configs else []
    where = ["--profile", str(_profile())] if on_slurm else []
    if cores is not None or not on_slurm:
        where += ["--cores", str(cores if cores is not None else "all")]
    status = _watched([*words, *where, *chosen], config)
    if status == 0 and with_report:
        report = config.folder / "report.html"
        status = _watched([*words, "--cores", "1", "--report", str(report), *chosen], config)
        if status == 0:
            print(f"The report is {report}; open it in a browser.")
    return status


def _profile() -> Path:
    for folder in (Path.cwd(), WORKFLOW):
        profile = folder / "profiles" / "slurm"
        if profile.is_dir():
            return profile
    raise InputError("profiles/slurm is missing; copy it from the project (docs/slurm.md)")


def _watched(words: Sequence[str], config: Config) -> int:
    """Run Snakemake in a group of processes of its own, and pass signals on to the group."""
    paths = [str(SOURCE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        EXPECTED: json.dumps(expected_seconds(config)),
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "mammo_sae.watched", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        process_group=0,
    )

    def stop(number: int, frame: object) -> None:
        # Snakemake ends its jobs on the signal of Ctrl-C; on the other one it would wait for them.
        os.killpg(child.pid, signal.SIGINT)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def expected_seconds(config: Config) -> dict[str, float]:
    """Return rule -> seconds that one of its jobs is expected to take, on average."""
    try:
        images = count_images(config)
    except InputError:
        return {}  # the workflow says what is wrong
    first = next(iter(config.encoders))
    total: dict[str, float] = defaultdict(float)
    number: dict[str, int] = defaultdict(int)
    for step, count, names in jobs(config):
        size = Size(
            config, images, names.get("encoder", first), names.get("layer"), names.get("sae")
        )
        total[step] += count * NEEDS[step](size).seconds
        number[step] += count
    return {step: round(total[step] / number[step], 1) for step in total if number[step]}
