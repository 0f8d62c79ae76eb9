"""Fine-tuning in two processes that torchrun has started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mammo_sae.cli import run_step
from mammo_sae.compute.ranks import Ranks
from mammo_sae.encoders import finetune
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.encoders.settings import FastRecipe, FinetunedSettings
from mammo_sae.errors import InputError
from mammo_sae.settings import canonical_json
from mammo_sae.stores.publish import read_json
from mammo_sae.stores.tables import write_table

COMMAND = Path(__file__).with_name("in_ranks.py")
RECIPE = FastRecipe(epochs=3, most_cycles=1, batch_size=23, accumulate=2)
SETTINGS = FinetunedSettings(kind="finetuned", base="base", freeze="blocks.4", recipe=RECIPE)
FILES = ["encoder.safetensors", "encoder.json", "head.safetensors", "head.json", "history.csv"]


@pytest.fixture
def inputs(lite0, cached, tmp_path) -> dict[str, object]:
    """The inputs of fine-tuning. Of batches of 23, the last one has a single image."""
    cohort, _, embeddings = cached
    table = pd.read_parquet(cohort)
    table.loc[0, "mass"] = pd.NA
    write_table(table, cohort)
    head = Head(np.zeros((1, 1280), np.float32), np.zeros(1, np.float32), ("mass",))
    (tmp_path / "base").mkdir()
    save_head(head, tmp_path / "base" / "head.safetensors", tmp_path / "base" / "head.json")
    return {
        "concepts": ["mass"],
        "images": cohort,
        "base": lite0,
        "base_head": tmp_path / "base",
        "embeddings": embeddings,
    }


def outputs(folder: Path) -> dict[str, Path]:
    names = ["weights", "description", "head_weights", "head_description", "history"]
    return dict(zip(names, [folder / file for file in FILES], strict=True))


@pytest.fixture
def alone(monkeypatch, inputs) -> Callable[[Path], Path]:
    """Fine-tune in this process, with float32 products."""

    def run(folder: Path) -> Path:
        monkeypatch.setattr(finetune, "product_type", lambda _: torch.float32)
        finetune.run(SETTINGS, **inputs, **outputs(folder))
        return folder

    return run


def in_two_ranks(inputs: dict, folder: Path, rank_1: str = "") -> subprocess.CompletedProcess[str]:
    """Fine-tune in two ranks. `rank_1` is a step and how rank 1 ends there."""
    words = ["--settings", canonical_json(SETTINGS)]
    for name, value in {**inputs, **outputs(folder)}.items():
        words.append(f"--{name.replace('_', '-')}")
        words += map(str, value) if isinstance(value, list) else [str(value)]
    return subprocess.run(
        [
            *(sys.executable, "-m", "mammo_sae.compute.launch", "--standalone"),
            *("--nproc-per-node", "2", str(COMMAND), "finetune", *words),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "RANK_1": rank_1},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def assert_trained_alike(first: Path, second: Path) -> None:
    logs = [pd.read_csv(folder / "history.csv") for folder in (first, second)]
    np.testing.assert_allclose(logs[0]["loss"], logs[1]["loss"], rtol=0, atol=1e-4)
    for file in ("encoder.safetensors", "head.safetensors"):
        weights = [load_file(folder / file) for folder in (first, second)]
        for name in weights[0]:
            np.testing.assert_allclose(weights[0][name], weights[1][name], atol=1e-3, err_msg=name)


def test_two_ranks_train_as_one_process(inputs, alone, tmp_path):
    done = in_two_ranks(inputs, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert_trained_alike(alone(tmp_path / "one"), tmp_path / "two")
    # The first rank alone writes, and shows its progress.
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        *FILES,
        "head.safetensors.provenance.json",
    }
    assert read_json(tmp_path / "two" / "head.safetensors.provenance.json")["step"] == "finetune"
    assert len(re.findall(r"fine-tune:   0%", done.stderr)) == 1
    assert "Warning" not in done.stderr


@pytest.mark.soak
def test_after_a_rank_was_killed_one_process_goes_on_to_the_same_loss(inputs, alone, tmp_path):
    done = in_two_ranks(inputs, tmp_path / "two", "5 killed")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: rank 1 was killed by SIGKILL; see whether its memory was enough, and run again"
    )
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["checkpoint.pt"]
    left = (tmp_path / "two" / "checkpoint.pt").read_bytes()
    assert_trained_alike(alone(tmp_path / "one"), alone(tmp_path / "two"))
    # From the checkpoint of one process two ranks go on, too.
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "checkpoint.pt").write_bytes(left)
    done = in_two_ranks(inputs, tmp_path / "three")
    assert "starts over" not in done.stderr
    assert "fine-tune: 100%|██████████| 5/5" in done.stderr
    assert_trained_alike(tmp_path / "one", tmp_path / "three")


def test_an_error_of_one_rank_ends_all_with_one_sentence(inputs, tmp_path):
    done = in_two_ranks(inputs, tmp_path / "two", "0 error")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == ("error: embeddings/7: chunk 3 is damaged; rebuild it")
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "two").exists()


@pytest.mark.soak
def test_an_error_of_all_ranks_is_said_once(inputs, tmp_path):
    inputs["concepts"] = ["cyst"]
    done = in_two_ranks(inputs, tmp_path / "two")
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr


def test_the_shares_of_a_batch_are_disjoint_and_complete_and_as_even_as_can_be():
    for length in range(12):
        shares = [Ranks(number, 5).share(length) for number in range(5)]
        assert [i for own in shares for i in range(length)[own]] == list(range(length))
        sizes = [own.stop - own.start for own in shares]
        assert max(sizes) - min(sizes) <= 1


def test_more_ranks_than_images_in_a_batch_are_refused(inputs, monkeypatch, tmp_path):
    monkeypatch.setattr(finetune, "current_ranks", lambda: Ranks(0, 24))
    with pytest.raises(InputError, match=r"24 ranks can't share batches of 23 images; start 23"):
        finetune.run(SETTINGS, **inputs, **outputs(tmp_path / "a"))


def test_another_step_is_not_started_by_torchrun(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(InputError, match="registry runs in one process; start it without torchrun"):
        run_step("registry", [])
