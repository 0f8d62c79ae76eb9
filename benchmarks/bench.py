"""Measure the project's figures of speed in one run: `make bench`.

    python benchmarks/bench.py [--only PART ...] [--output benchmarks/bench.json]

Each part is one of the other scripts of this folder, in a size that takes minutes on two cores. The
figures are read from what the script prints, and stand beside what they are compared with: a bare
loop over the same work, another library, or another way. The last part runs analyses on 1, 4 and 16
times as many synthetic images.

The JSON file has the machine, the versions and the figures. The site shows it as the page
`benchmarks` (docs/hooks.py). It is written only if every part of the run has its figures. With
`--only`, it is written only where `--output` says.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
OUTPUT = FOLDER / "bench.json"
SIZES = (250, 1000, 4000)
# `interventions` reads what `evaluate_encoder` writes.
GROWING = ("evaluate_encoder", "latents", "confounds", "alignment", "interventions", "probes")


@dataclass(frozen=True)
class Figure:
    """A number in the output of a script.

    Attributes
    ----------
    what
        What was measured.
    beside
        What it is compared with, and in which sense.
    pattern
        Regular expression whose group `value` is the number. Each match is one figure. If it has a
        group `of`, the text of this group is added to `what`.
    """

    what: str
    beside: str
    pattern: str

    def read(self, text: str) -> Iterator[dict[str, Any]]:
        """Yield what the text says.

        Raises
        ------
        ValueError
            If the pattern has no match.
        """
        found = list(re.finditer(self.pattern, text, re.MULTILINE))
        if not found:
            raise ValueError(f"{self.what}: no {self.pattern!r} in the output")
        for match in found:
            of = match.groupdict().get("of")
            what = f"{self.what}, {of.strip()}" if of else self.what
            value = float(match["value"].replace(",", ""))
            yield {"what": what, "value": value, "beside": self.beside}


@dataclass(frozen=True)
class Part:
    """A script, its words, and the figures in its output."""

    words: Sequence[str]
    figures: Sequence[Figure]


NUMBER = r"(?P<value>[\d.,]+(?:e[+-]?\d+)?)"
PARTS = {
    "conversion": Part(
        ("bench_images.py", "--images", "2", "--turns", "3"),
        (
            Figure(
                "conversion",
                "time of a bare decode and resize over that of the conversion; 1 is equal",
                r"^(?P<of>[\w -]+?) +bare.*ratio +" + NUMBER + " +peak",
            ),
            Figure(
                "the step, with its store and checks",
                "CPU time of a pool of bare loops over that of the step; 1 is equal",
                r"^the step,.*ratio +" + NUMBER,
            ),
        ),
    ),
    "extraction": Part(
        ("bench_extraction.py", "lite0", "--images", "256"),
        (
            Figure(
                "network",
                "images/s over those of the reference package's network; 1 is equal",
                r"network / reference +" + NUMBER,
            ),
            Figure(
                "extraction step",
                "images/s over those of the bare network; 1 is equal",
                r"step / network +" + NUMBER,
            ),
            Figure(
                "extraction step, CPU time",
                "CPU time of the bare network over that of the step; 1 is equal",
                r"step / network, CPU time +" + NUMBER,
            ),
        ),
    ),
    "training": Part(
        ("bench_sae.py", "--steps", "60"),
        (
            Figure(
                "training step of an SAE",
                "cells/s over those of a plain implementation; `fp32`: single precision, `bf16`: "
                "bfloat16",
                r"^(?P<of>\S.*?) +\d+ cells/s +x *" + NUMBER,
            ),
        ),
    ),
    "recovery": Part(
        ("bench_recovery.py", "--steps", "300"),
        (
            Figure(
                "true atoms found after 300 steps",
                "share of a known dictionary, mean over seeds; all libraries with a learning rate "
                "of 3e-3, `best of n`: of n penalties",
                r"^(?P<of>\S.*?) " + NUMBER + r" +[\d.]+-[\d.]+$",
            ),
        ),
    ),
    "together": Part(
        ("bench_together.py", "--turns", "2", "--steps", "64"),
        (
            Figure(
                "three SAEs in one pass",
                "time of three trainings, one after the other, over that of one pass that trains "
                "all three; 1 is no gain",
                r"apart / together " + NUMBER,
            ),
        ),
    ),
    "stores": Part(
        ("bench_stores.py",),
        (
            Figure(
                "reader of an embedding store",
                "rate over that of zarr-python without checks, in stored order",
                r"^(?P<of>in order|random) .*rate over that of zarr " + NUMBER,
            ),
            Figure(
                "bound for any reader: the files' bytes without decoding",
                "rate over that of zarr-python",
                r"^bytes .*rate over that of zarr " + NUMBER,
            ),
        ),
    ),
    "codes": Part(
        ("bench_codes.py", "--images", "12"),
        (
            Figure(
                "codes step",
                "rate over that of the SAE's encoder on cells in memory; 1 is equal",
                r"rate of the step.*?: " + NUMBER + " by the clock",
            ),
        ),
    ),
    "interventions": Part(
        ("bench_interventions.py",),
        (
            Figure(
                "interventions at the head for all k, in closed form from mean codes",
                "time of decoding the embeddings again for the paper's 12 k alone, measured on 4 "
                "images and multiplied out, over that of the closed form",
                NUMBER + " times the algebra's time",
            ),
            Figure(
                "largest difference of a logit between both",
                "0 is equal",
                r"largest difference of a logit " + NUMBER,
            ),
        ),
    ),
    "planning": Part(
        ("bench_dryrun.py",),
        (
            Figure(
                "snakemake -n for 480,000 images, CPU s",
                "the limit is 60 s",
                r'"(?P<of>nothing there|all there)": [^}]*"CPU seconds": ' + NUMBER,
            ),
        ),
    ),
    "overhead": Part(
        ("bench_overhead.py",),
        (
            Figure(
                "Snakemake's own time per job, s",
                "whole workflow on a small phantom, one job at a time; the start of a job's "
                "Python counts as the job's",
                r"seconds a job that are not the job's: " + NUMBER,
            ),
            Figure(
                "share of the run's time in jobs",
                "1 is all of it",
                r"share of the run's time in jobs: " + NUMBER,
            ),
        ),
    ),
    "growth": Part(
        (
            *("rehearsal.py", "--latents", "2048", "--images", *map(str, SIZES)),
            *("--steps", *GROWING, "--output", "{output}"),
        ),
        (),
    ),
}


def measured(name: str) -> list[dict[str, Any]]:
    """Run a part and return its figures."""
    part = PARTS[name]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "growth.json"
        words = [word.format(output=output) for word in part.words]
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(FOLDER / words[0]), *words[1:]],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        if done.returncode:
            raise RuntimeError(f"{words[0]} failed:\n{(done.stdout + done.stderr)[-2000:]}")
        rows = [row for figure in part.figures for row in figure.read(done.stdout)]
        if output.exists():
            rows = growth(json.loads(output.read_text()))
    print(f"{name}: {len(rows)} figures in {seconds:.0f} s", file=sys.stderr, flush=True)
    return [{"part": name, **row} for row in rows]


def growth(measures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the growth of the CPU time of each step with the images, and its peak memory.

    Raises
    ------
    ValueError
        If a step has no measure at a size.
    """
    found = {(row["step"], row["images"]): row for row in measures}
    rows = []
    for step in GROWING:
        missing = [f"{images:,}" for images in SIZES if (step, images) not in found]
        if missing:
            raise ValueError(f"{step}: no measure with {', '.join(missing)} images")
        first = found[step, SIZES[0]]
        for images in SIZES[1:]:
            here, times = found[step, images], images // SIZES[0]
            ratio = round(here["cpu_seconds"] / first["cpu_seconds"], 2)
            beside = f"that with {SIZES[0]} images; {times} is linear"
            what = f"{step}: CPU time with {times} times the images"
            rows.append({"what": what, "value": ratio, "beside": beside})
        memory = [found[step, images]["mib"] for images in SIZES]
        what, beside = (
            f"{step}: peak memory with {SIZES[-1]:,} images, MiB",
            "{:g} with {}, {:g} with {:,}",
        )
        beside = beside.format(memory[0], SIZES[0], memory[1], SIZES[1])
        rows.append({"what": what, "value": memory[-1], "beside": beside})
    return rows


def machine() -> dict[str, Any]:
    """Return a description of the machine and the versions."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "zarr", "numpy", "snakemake")},
        "date": datetime.now(UTC).date().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    output = arguments.output or (None if arguments.only else OUTPUT)
    figures: list[dict[str, Any]] = []
    failed = []
    for name in arguments.only or PARTS:
        try:
            figures += measured(name)
        except (RuntimeError, ValueError) as error:
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    for row in figures:
        print(f"{row['part']:14} {row['value']:10g}  {row['what']} ({row['beside']})")
    if failed:
        sys.exit(f"without figures: {', '.join(failed)}; nothing was written")
    if output:
        text = json.dumps({"machine": machine(), "figures": figures}, indent=1)
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
