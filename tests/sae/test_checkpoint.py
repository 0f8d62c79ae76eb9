from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import torch

from mammo_sae.sae.checkpoint import Checkpoint
from mammo_sae.settings import canonical_json

FILES = ("sae.safetensors", "sae.json", "log.csv")
CPU = torch.device("cpu")

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from mammo_sae.sae import train, trainer
from mammo_sae.sae.settings import SaeTraining
from mammo_sae.settings import parse_settings

torch.set_num_threads(1)
trainer.SAVE_SECONDS = 0.0
folder, images, layer, *embeddings = sys.argv[2:]
advance = trainer.Training.advance

def die_at_step_70(self, u):
    if self.step == 70:
        os.kill(os.getpid(), signal.SIGKILL)
    advance(self, u)

trainer.Training.advance = die_at_step_70
train.run(
    parse_settings(SaeTraining, sys.argv[1], "settings"), images=Path(images), layer=layer,
    embeddings=[Path(e) for e in embeddings], weights=Path(folder) / "sae.safetensors",
    description=Path(folder) / "sae.json", log=Path(folder) / "log.csv",
)
"""


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(cohort, train_sae, settings, tmp_path):
    train_sae(cohort, tmp_path / "whole")
    killed = tmp_path / "killed"
    arguments = [canonical_json(settings), killed, cohort.images, "head", *cohort.manifests]
    ended = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in killed.iterdir()] == ["checkpoint.pt"]
    assert torch.load(killed / "checkpoint.pt", weights_only=True)["state"]["step"] == 70
    train_sae(cohort, killed)
    for name in FILES:
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (killed / "checkpoint.pt").exists()


def test_a_checkpoint_of_another_run_is_ignored(settings, tmp_path):
    path = tmp_path / "checkpoint.pt"
    Checkpoint(path, [settings, "head"], CPU).save({"step": 3})
    assert Checkpoint(path, [settings, "head"], CPU).load() == {"step": 3}
    other = settings.model_copy(update={"lr": 0.5})
    assert Checkpoint(path, [other, "head"], CPU).load() is None


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint"])
def test_a_missing_or_damaged_checkpoint_means_starting_over(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    if content is not None:
        path.write_bytes(content)
    assert Checkpoint(path, ["run"], CPU).load() is None
