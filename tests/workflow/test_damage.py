"""Damage of any kind is found, named, and repaired by the command that `verify` prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.soak]


def _verify(project):
    return subprocess.run(
        [sys.executable, "-m", "mammo_sae", "verify", "results/micro"],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _swap(path: Path) -> None:
    """Replace the file by an intact file of the same kind."""
    other = next(p for p in sorted(path.parent.rglob(path.name)) if p != path)
    shutil.copy(other, path)


@pytest.fixture
def kept(micro_finished):
    """The finished run. Damaged files are restored after the test."""
    aside = micro_finished.results.with_name("aside")
    shutil.copytree(micro_finished.results, aside)
    yield micro_finished
    for path in sorted(micro_finished.results.rglob("*")):
        same = aside / path.relative_to(micro_finished.results)
        if path.is_file() and (not same.is_file() or same.read_bytes() != path.read_bytes()):
            path.unlink()
    for path in sorted(aside.rglob("*")):
        target = micro_finished.results / path.relative_to(aside)
        if path.is_file() and not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    shutil.rmtree(aside)


def test_a_finished_run_is_whole(micro_finished):
    done = _verify(micro_finished)
    assert done.returncode == 0, done.stdout
    assert re.search(r"11 stores and \d+ steps checked, 0 problems", done.stdout)


RUN = "pretrained/head/topk/seed0"


@pytest.mark.parametrize("damage", [_flip, _truncate, Path.unlink], ids=lambda d: d.__name__)
@pytest.mark.parametrize(
    "file",
    [
        f"analysis/{RUN}/confounds.parquet",
        f"sae/{RUN}/sae.safetensors",
        "encoders/pretrained/encoder.safetensors",
        "cohort/images.parquet",
        "tables/truth.csv",
        "figures/truth.png",
    ],
)
def test_a_damaged_table_model_or_figure_is_named(kept, file, damage):
    damage(kept.results / file)
    done = _verify(kept)
    assert done.returncode == 1
    assert f"results/micro/{file}" in done.stdout
    assert " 1 problems" in done.stdout


@pytest.mark.parametrize("damage", [_flip, _truncate, Path.unlink], ids=lambda d: d.__name__)
@pytest.mark.parametrize(
    "store", ["images/0", "embeddings/pretrained/head+pooled/0", f"codes/{RUN}", "source/test"]
)
def test_a_damaged_chunk_of_a_store_is_named(kept, store, damage):
    folder = kept.results / f"{store}.zarr"
    folder = folder if folder.is_dir() else kept.results / store
    chunk = max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    damage(chunk)
    done = _verify(kept)
    assert done.returncode == 1
    assert chunk.relative_to(folder).as_posix() in done.stdout


def test_a_swapped_shard_is_found(kept):
    for name in ("0.zarr", "0.zarr/files.json"):
        assert (kept.results / "images" / name).exists()
    shutil.rmtree(kept.results / "images" / "0.zarr")
    shutil.copytree(kept.results / "images" / "1.zarr", kept.results / "images" / "0.zarr")
    done = _verify(kept)
    assert done.returncode == 1
    assert "results/micro/images/0.zarr is not the store its manifest describes" in done.stdout


def test_the_printed_command_rebuilds_only_the_damaged_files(kept):
    table = kept.results / "tables" / "truth.csv"
    content = table.read_bytes()
    _flip(table)
    [line] = [line for line in _verify(kept).stdout.splitlines() if "to rebuild: " in line]
    command = line.partition("to rebuild: ")[2]
    command = command.replace(" snakemake ", f" {sys.executable} -m snakemake ", 1)
    done = subprocess.run(
        command, shell=True, cwd=kept.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"table +1\n", done.stderr + done.stdout)
    assert table.read_bytes() == content
    assert _verify(kept).returncode == 0
