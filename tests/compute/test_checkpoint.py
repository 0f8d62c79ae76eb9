from __future__ import annotations

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
