from __future__ import annotations

import signal
import subprocess
import sys

import torch

from mammo_sae.settings import canonical_json

FILES = ("sae.safetensors", "sae.json", "log.csv")

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from mammo_sae.sae import train_sae, trainer
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
train_sae.run(
    parse_settings(SaeTraining, sys.argv[1], "settings"), splits=Path(images), layer=layer,
    embeddings=[Path(e) for e in embeddings], weights=Path(folder) / "sae.safetensors",
    description=Path(folder) / "sae.json", history=Path(folder) / "log.csv",
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
