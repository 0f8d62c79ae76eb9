"""Small folders as a person may have them, shared by the tests of `init` and `doctor`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_files import breast_picture, write_dicom
from mammo_sae import cli

__all__ = ["write_dicom"]


def write_png(path: Path, *, side: str = "L", seed: int = 0, size: tuple[int, int] = (96, 64)):
    """A picture of a breast in 8 bits; another seed gives other pixels."""
    noise = np.random.default_rng(seed).random(size) * 0.1
    picture = (breast_picture(*size, side=side) + noise).clip(0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture * 255).astype(np.uint8)).save(path)


@pytest.fixture
def pngs(tmp_path) -> Path:
    """Eight PNGs of four patients: 001.png to 008.png, left and right CC of each patient."""
    folder = tmp_path / "own"
    for number in range(8):
        write_png(folder / f"{number + 1:03d}.png", side="LR"[number % 2], seed=number)
    return folder


ROWS = [
    ("001", "P1", "L", "CC", "1"),
    ("002", "P1", "R", "CC", "0"),
    ("003", "P2", "L", "CC", "0"),
    ("004", "P2", "R", "CC", "0"),
    ("005", "P3", "L", "CC", "1"),
    ("006", "P3", "R", "CC", "0"),
    ("007", "P4", "L", "CC", "0"),
    ("008", "P4", "R", "CC", "0"),
]
HEADER = ("image", "patient", "side", "view", "mass")


def table(header=HEADER, rows=ROWS, separator=",") -> str:
    return "\n".join(separator.join(row) for row in (header, *rows)) + "\n"


def with_column(name: str, cells: list[str]) -> str:
    rows = [(*row, cell) for row, cell in zip(ROWS, cells, strict=True)]
    return table((*HEADER, name), rows)


@pytest.fixture
def init(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """Run `init own` in a folder of the test, and return what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        cli.run(["init", "own", *words])
        return capsys.readouterr().out

    return run
