from __future__ import annotations

import numpy as np
import pytest
import torch

from mammo_sae.errors import StoreError
from mammo_sae.sae import files
from mammo_sae.sae.model import SparseAutoencoder


@pytest.fixture
def saved(tmp_path):
    decoder = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32))
    sae = SparseAutoencoder(torch.ones(50, 6), torch.zeros(50), decoder, torch.zeros(6), k=2)
    sae.save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    return tmp_path / "sae.json", decoder.numpy()


@pytest.mark.parametrize("rows", [4096, 7])
def test_the_atoms_of_chosen_latents_are_read_in_order(saved, rows, monkeypatch):
    monkeypatch.setattr(files, "ROWS", rows)
    path, decoder = saved
    np.testing.assert_array_equal(files.read_atoms(path), decoder)
    chosen = np.random.default_rng(1).random(50) < 0.3
    np.testing.assert_array_equal(files.read_atoms(path, chosen), decoder[chosen])


def test_a_choice_for_another_number_of_latents_is_refused(saved):
    with pytest.raises(StoreError, match="has 50 latents, not 49; encode again"):
        files.read_atoms(saved[0], np.ones(49, bool))
