"""Small real embedding stores for the tests of the sparse autoencoders."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from mammo_sae.records import write_record
from mammo_sae.sae import train_sae as step
from mammo_sae.sae.settings import SaeTraining, TopKVariant
from small_cohort import Cohort, write_cohort

# Tests of this folder share `foreign`.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_cohort(tmp_path: Path) -> Callable[..., Cohort]:
    """Return a function that writes a cohort of sparse mixtures of known atoms."""
    return partial(write_cohort, tmp_path)


@pytest.fixture
def cohort(make_cohort: Callable[..., Cohort]) -> Cohort:
    return make_cohort()


@pytest.fixture
def settings() -> SaeTraining:
    return SaeTraining(
        variant=TopKVariant(k=4, k_aux=4), latents=32, lr=1e-2, steps=150, batch=64, seed=1
    )


@pytest.fixture
def train_sae(settings: SaeTraining) -> Callable[..., Path]:
    """Return a function that trains an SAE into a folder and returns its description."""

    def run(cohort: Cohort, folder: Path, own: SaeTraining = settings, **changes) -> Path:
        arguments = {
            "splits": cohort.images,
            "embeddings": cohort.manifests,
            "layer": cohort.layer,
            "weights": folder / "sae.safetensors",
            "description": folder / "sae.json",
            "history": folder / "log.csv",
        }
        outputs = step.run(own, **{**arguments, **changes})
        if "made_by" in changes:
            write_record(outputs, changes["made_by"](own), ["torch"])
        return folder / "sae.json"

    return run
