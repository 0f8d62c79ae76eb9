"""Compare the SAE training of this package with other libraries in one run.

    make bench-sae
    python benchmarks/bench_sae.py [--device cuda] [--csv FILE] [--peers DIR] [--steps N] [name ...]

Every implementation trains a TopK SAE with AuxK (or a ReLU SAE with an L1 penalty, if its name
contains L1) on the same batches in the same order. Cells are made of a known sparse dictionary. On
a CPU d = 352, h = 2816, k = 16, batch 4096; on a GPU d = 2048, h = 16384, k = 32, batches 4096 and
16384. Each implementation has its own process. They take turns of a few steps, so that other load
on the machine affects all equally. The script prints cells/s (median turn), ratios to the plain
implementation by wall time and by processor time, the explained variance on held-out cells, and the
share of true atoms that an atom matches with cosine > 0.9. If `products` is among the
implementations, which is the default on a GPU, it also prints the rate of the three bfloat16
products, 6 d h operations per cell, and each implementation's share of this rate.

If the environment of the other libraries is missing, it is built in --peers (default .venv-bench).
`--peers -` uses the environment of this interpreter.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
OWN = ("mammo-sae", "mammo-sae fp32", "mammo-sae store", "plain")
PEERS = ("sae-lens fp32", "sae-lens bf16", "sparsify", "dictionary_learning", "overcomplete")
ELSEWHERE = {*PEERS, "sae-lens l1 bf16"}
TRUE_ATOMS, TRUE_ACTIVE = 2000, 12
TURN = 10
CELLS_AT_ONCE = 4096


@dataclass(frozen=True)
class Course:
    """The default comparison: sizes, batches of cells, implementations."""

    d: int
    h: int
    k: int
    batches: tuple[int, ...]
    cells: int
    names: tuple[str, ...]


COURSES = {
    "cpu": Course(352, 2816, 16, (4096,), 50 * 4096, (*OWN, *PEERS)),
    "cuda": Course(
        2048, 16_384, 32, (4096, 16_384), 4 * 16_384,
        ("products", "mammo-sae", "plain", "sae-lens fp32", "sae-lens bf16", "sparsify",
         "mammo-sae l1", "sae-lens l1 bf16"),
    ),
}  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name")
    parser.add_argument("--device", choices=COURSES, default="cpu")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--peers", type=Path, default=Path(".venv-bench"))
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    course = COURSES[arguments.device]
    names = arguments.names or course.names
    peers = str(arguments.peers / "bin/python")
    if str(arguments.peers) == "-":
        peers = sys.executable
    elif ELSEWHERE.intersection(names):
        build(arguments.peers)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "cells.npz"
        write_cells(data, course, arguments.steps)
        for batch in course.batches:
            sizes = {"h": course.h, "k": course.k, "batch": batch, "steps": arguments.steps}
            rows += race(names, peers, data, sizes | {"device": arguments.device})
            report(rows, course, batch)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, max(rows, key=len))
            writer.writeheader()
            writer.writerows(rows)


def report(rows: list[dict[str, object]], course: Course, batch: int) -> None:
    """Print the rows of one batch size, and each implementation's share of the products' rate."""
    rows = [row for row in rows if row["batch"] == batch]
    bound = next((row["cells_per_s"] for row in rows if row["name"] == "products"), None)
    print(f"d = {course.d}, h = {course.h}, k = {course.k}, batch {batch}")
    for row in rows:
        if row["name"] == "products":
            speed = row["cells_per_s"] * 6 * course.d * course.h / 1e12
            print(f"{row['name']:22s} {bound:10.0f} cells/s  {speed:.0f} TFLOP/s")
            continue
        share = f"{row['cells_per_s'] / bound:5.0%} of the products' rate  " if bound else ""
        print(
            f"{row['name']:22s} {row['cells_per_s']:10.0f} cells/s  x{row['ratio']:5.2f} "
            f"(processor x{row['processor_ratio']:5.2f})  {share}"
            f"explained variance {row['explained_variance']:.4f}  recovered {row['recovered']:.3f}"
        )


def build(folder: Path) -> None:
    """Make the environment of the other libraries, if it does not exist."""
    if (folder / "built").exists():
        return
    venv.create(folder, with_pip=True, clear=True)
    python = str(folder / "bin/python")
    pip = [python, "-m", "pip", "install", "--quiet", "--upgrade"]
    subprocess.run([*pip, "pip"], check=True)
    # torch is installed first and alone, because the requirements of another package may install a
    # build for GPUs.
    subprocess.run([*pip, "torch==2.13.0"], check=True)
    subprocess.run([*pip, "--requirement", str(HERE / "requirements-sae.txt")], check=True)
    without = ["--no-deps", "dictionary-learning==0.1.0", "nnsight==0.3.7"]
    subprocess.run([*pip, *without], check=True)
    # With a CPU build of torch, the CUDA build of this package breaks the import of several
    # libraries.
    subprocess.run(
        [python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], check=True
    )
    (folder / "built").touch()


def write_cells(path: Path, course: Course, steps: int) -> None:
    """Write training and held-out cells made of a known dictionary, and the dictionary."""
    random = np.random.default_rng(0)
    atoms = random.normal(size=(TRUE_ATOMS, course.d)).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    popularity = 1 / np.arange(1, TRUE_ATOMS + 1) ** 0.5
    popularity /= popularity.sum()

    def cells(count: int) -> np.ndarray:
        which = random.choice(TRUE_ATOMS, size=(count, TRUE_ACTIVE), p=popularity)
        amount = random.exponential(size=(count, TRUE_ACTIVE)).astype(np.float32) + 0.5
        x = np.einsum("nk,nkd->nd", amount, atoms[which])
        return x + 0.05 * random.normal(size=x.shape).astype(np.float32)

    count = min(steps * max(course.batches), course.cells)
    train = np.concatenate([cells(CELLS_AT_ONCE) for _ in range(count // CELLS_AT_ONCE)])
    mean = train.mean(axis=0)
    scale = np.sqrt(course.d / np.square(train - mean).sum(axis=1).mean())
    held_out = (cells(4 * CELLS_AT_ONCE) - mean) * scale
    np.savez(path, train=(train - mean) * scale, held_out=held_out, atoms=atoms)


class Racer:
    """One implementation in its own process. sae_racers.py documents the protocol."""

    def __init__(self, name: str, python: str, data: Path, sizes: dict[str, object]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, str(HERE / "sae_racers.py"), name, str(data), json.dumps(sizes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if "DEBUG" not in os.environ else None,
            text=True,
        )
        self.ask("ready")
        self.seconds: list[float] = []
        self.processor: list[float] = []

    def ask(self, question: str) -> dict[str, float]:
        """Send one line, return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(
                f"{self.name} ended with status {self._process.wait()}; set DEBUG=1 to see why"
            )
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def race(
    names: Sequence[str], peers: str, data: Path, sizes: dict[str, object]
) -> list[dict[str, object]]:
    """Train all implementations in turns. Return one row each, the fastest first."""
    racers = [
        Racer(name, peers if name in ELSEWHERE else sys.executable, data, sizes) for name in names
    ]
    for _ in range(sizes["steps"] // TURN):
        for racer in racers:
            turn = racer.ask(f"train {TURN}")
            racer.seconds.append(turn["seconds"])
            racer.processor.append(turn["processor_seconds"])
    rows = []
    for racer in racers:
        # The first turn warms up.
        rate, processor_rate = (
            sizes["batch"] * TURN / statistics.median(turns[1:])
            for turns in (racer.seconds, racer.processor)
        )
        rates = {"cells_per_s": rate, "cells_per_processor_s": processor_rate}
        score = {} if racer.name == "products" else racer.ask("score")
        rows.append({"name": racer.name, "batch": sizes["batch"], **rates, **score})
        racer.close()
    plain = next((row for row in rows if row["name"] == "plain"), {})
    for row in rows:
        row["ratio"] = row["cells_per_s"] / plain.get("cells_per_s", float("nan"))
        row["processor_ratio"] = row["cells_per_processor_s"] / plain.get(
            "cells_per_processor_s", float("nan")
        )
    return sorted(rows, key=lambda row: -row["cells_per_s"])


if __name__ == "__main__":
    main()
