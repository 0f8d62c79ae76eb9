"""Measure how much of a run's time is not that of its jobs.

    python benchmarks/bench_overhead.py [--config tests/workflow/micro.yaml]

The script runs the whole workflow on a small phantom on one core, so that no two jobs overlap. Each
job has a benchmark file with its own wall time, from the start of its Python to the end. The rest
of the run's wall time is Snakemake's: planning, starting jobs, the checks and records after them.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=PROJECT / "tests/workflow/micro.yaml")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        content = yaml.safe_load(arguments.config.read_text())
        content["results"] = str(Path(folder) / "results")
        config = Path(folder) / "run.yaml"
        config.write_text(yaml.safe_dump(content))
        begun = time.perf_counter()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile")),
                *("--configfile", str(config), "--directory", folder, "--cores", "1"),
            ],
            env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - begun
        if done.returncode:
            sys.exit((done.stdout + done.stderr)[-4000:])
        jobs = []
        for path in Path(folder, "results").rglob("benchmarks/**/*.tsv"):
            with path.open() as stream:
                jobs += [float(row["s"]) for row in csv.DictReader(stream, delimiter="\t")]
    rest = seconds - sum(jobs)
    print(f"{len(jobs)} jobs, {seconds:.0f} s, of these in jobs {sum(jobs):.0f} s")
    print(f"seconds a job that are not the job's: {rest / len(jobs):.2f}")
    print(f"share of the run's time in jobs: {sum(jobs) / seconds:.2f}")


if __name__ == "__main__":
    main()
