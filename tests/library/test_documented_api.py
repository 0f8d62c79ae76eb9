"""The blocks of docs/api.md run as they are, on a small run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from mammo_sae.library import run as library

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
FIRST, *BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


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


def test_the_page_names_every_public_method():
    methods = [name for name in vars(library.Run) if not name.startswith("_")]
    text = PAGE.read_text()
    assert [name for name in methods if f"run.{name}" not in text] == ["name"]
