"""The blocks of docs/api.md, and commands on a finished run, work as they are on a small run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from documented import ON_A_RUN, PROJECT, blocks, run_by
from mammo_sae.library import run as library

PAGE = PROJECT / "docs" / "api.md"
FIRST, *BLOCKS = (block.text for block in blocks("python"))
# What differs between the run of the pages and this small run.
HERE = {
    ".venv/bin/python": sys.executable,
    "run=pretrained/": "run=finetuned/",
    "--chosen 647 12": "--chosen 7 12",
}
MADE = {"figure-confounds": "mass.png", "figure-latents": "latents.png", "export-sae": "exported"}


def test_the_page_has_ten_things_of_three_lines():
    assert len(BLOCKS) == 10
    assert {len(block.splitlines()) for block in BLOCKS} == {3}


@pytest.mark.parametrize("block", BLOCKS, ids=range(1, 11))
def test_a_block_runs(block, run, folder, dicom, tmp_path, monkeypatch):
    image = run.cohort.query("split == 'test'")["image_id"].iloc[0]
    shutil.copy(dicom(image), tmp_path / "image.dicom")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "phantom").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(FIRST + block, names)
    assert isinstance(names["run"], library.Run)


@pytest.mark.parametrize("command", run_by(ON_A_RUN))
def test_a_command_on_a_run_works(command, folder, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "phantom").symlink_to(folder)
    line = command
    for theirs, ours in HERE.items():
        line = line.replace(theirs, ours)
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    if "verify" in command:
        assert done.stdout.endswith(" steps checked, 0 problems\n")
    else:
        (made,) = (file for verb, file in MADE.items() if f" {verb} " in command)
        assert (tmp_path / made).exists()


def test_the_page_names_every_public_method():
    methods = [name for name in vars(library.Run) if not name.startswith("_")]
    text = PAGE.read_text()
    assert [name for name in methods if f"run.{name}" not in text] == ["name"]
