from __future__ import annotations

import numpy as np
import pytest
import torch

from mammo_sae.compute.checkpoint import Checkpoint

CPU = torch.device("cpu")


def test_a_checkpoint_of_another_run_is_ignored(tmp_path):
    path = tmp_path / "checkpoint.pt"
    Checkpoint(path, [{"lr": 0.1}, "head"], CPU).save({"step": 3})
    assert Checkpoint(path, [{"lr": 0.1}, "head"], CPU).load() == {"step": 3}
    assert Checkpoint(path, [{"lr": 0.5}, "head"], CPU).load() is None


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint"])
def test_a_missing_or_damaged_checkpoint_means_starting_over(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    if content is not None:
        path.write_bytes(content)
    assert Checkpoint(path, ["run"], CPU).load() is None


def test_no_damage_is_ever_taken_for_a_state(tmp_path):
    path = tmp_path / "checkpoint.pt"
    state = {"step": 3, "weight": torch.arange(600.0), "moments": [torch.ones(50), torch.zeros(7)]}
    kept = Checkpoint(path, ["run"], CPU)
    kept.save(state)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(600):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] ^= int(rng.integers(1, 256))
        if bytes(damaged) == whole:
            continue
        path.write_bytes(damaged)
        assert kept.load() is None
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        assert kept.load() is None
    path.write_bytes(whole)
    assert torch.equal(kept.load()["weight"], state["weight"])


def test_starting_again_is_reported(tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"
    Checkpoint(path, ["run"], CPU).save({"step": 3})
    assert Checkpoint(path, ["another"], CPU).load() is None
    assert "other settings, inputs or software: training starts over" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:-1])
    assert Checkpoint(path, ["run"], CPU).load() is None
    assert "checkpoint.pt is damaged: training starts over" in capsys.readouterr().err
    path.unlink()
    assert Checkpoint(path, ["run"], CPU).load() is None
    assert capsys.readouterr().err == ""


def test_a_file_that_torch_rejects_without_a_word_means_starting_over(
    tmp_path, capsys, monkeypatch
):
    kept = Checkpoint(tmp_path / "c.pt", [1], torch.device("cpu"))
    kept.save({"step": 1})

    def rejects(*_args, **_options):
        raise EOFError

    monkeypatch.setattr(torch, "load", rejects)
    assert kept.load() is None
    assert "can't be read (EOFError): training starts over" in capsys.readouterr().err
