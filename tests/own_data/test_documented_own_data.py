"""The commands of docs/own_data.md work on a small folder, up to the run."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
import pytest

from documented import ON_OWN_DATA, run_by
from mammo_sae import cli
from own_data_files import HEADER, ROWS, table

TOLD = {
    "init": "images.csv has 8 images of 4 patients",
    "doctor": "Nothing would be refused.",
}


@pytest.fixture
def own(pngs, monkeypatch) -> Path:
    """A folder with the columns of the page, in a folder that is the current one."""
    header = ("image", "Fallnummer", *HEADER[2:], "Pathologie")
    rows = [(*row, "maligne" if row[4] == "1" else "benigne") for row in ROWS]
    (pngs / "list.csv").write_text(table(header, rows))
    monkeypatch.chdir(pngs.parent)
    Path("mine.key").write_text("0123456789abcdef")  # the draw of splits depends on the key
    return pngs


@pytest.mark.parametrize("command", run_by(ON_OWN_DATA))
def test_a_command_works(command, own, capsys):
    words = [word.replace("/data/own", "own") for word in shlex.split(command)[3:]]
    if "--columns" not in words:  # a table whose columns are found
        (own / "list.csv").write_text(table())
    if words[0] == "doctor":
        cli.run(["init", "own"])
    cli.run(words)
    assert TOLD[words[0]] in capsys.readouterr().out
    if "--columns" in words:
        found = pd.read_csv(own / "images.csv", dtype=str)
        assert list(found["patient_id"]) == [row[1] for row in ROWS]
        assert list(found["malignant"]) == [row[4] for row in ROWS]
