from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mammo_sae.analysis import matched_latents
from mammo_sae.analysis.settings import MatchedLatentSettings
from mammo_sae.errors import InputError
from mammo_sae.sae.atoms import random_directions
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.pairing import unit
from mammo_sae.stores.tables import read_table, write_table


def save(folder, name, decoder):
    atoms = torch.from_numpy(decoder.astype(np.float32))
    sae = SparseAutoencoder(
        atoms.clone(), torch.zeros(len(atoms)), atoms, torch.zeros(atoms.shape[1]), k=2
    )
    sae.save(folder / f"{name}.safetensors", folder / f"{name}.json")
    return folder / f"{name}.json"


def effects(latents, values):
    return pd.DataFrame(
        {
            "encoder": "e",
            "layer": "head",
            "sae": "topk",
            "seed": 0,
            "concept": "mass",
            "split": "test",
            "latent": latents,
            "rank_causal": np.arange(len(latents)) + 1,
            "effect": values,
            "effect_low": values,
            "effect_high": values,
            "share": values,
        }
    )


@pytest.fixture
def atoms():
    decoder = np.random.default_rng(0).normal(size=(40, 64))
    return decoder / np.linalg.norm(decoder, axis=1, keepdims=True)


def test_a_kept_atom_is_matched_and_a_new_one_is_not(tmp_path, atoms):
    rng = np.random.default_rng(1)
    before = atoms[:30][::-1]
    after = np.concatenate([atoms[:20] + 0.02 * rng.normal(size=(20, 64)), atoms[30:]])
    write_table(effects(np.arange(30), np.arange(30) / 10), tmp_path / "before.parquet")
    write_table(effects(np.arange(25), np.full(25, 0.5)), tmp_path / "after.parquet")
    matched_latents.run(
        MatchedLatentSettings(),
        sae_before=save(tmp_path, "b", before),
        sae_after=save(tmp_path, "a", after),
        effects_before=tmp_path / "before.parquet",
        effects_after=tmp_path / "after.parquet",
        output=tmp_path / "matched_latents.parquet",
    )
    table = read_table(tmp_path / "matched_latents.parquet").set_index("latent")
    assert (table.loc[:19, "match"] == 29 - np.arange(20)).all()
    assert (table.loc[:19, "cosine"] > 0.95).all()
    assert not table.loc[:19, "new"].any()
    assert table.loc[20:, "new"].mean() >= 0.8
    assert table.loc[3, "effect_before"] == pytest.approx(2.6)


def null(atoms, others):
    drawn = random_directions(atoms.astype(np.float32), 500, 0)
    return matched_latents.null_cosine(unit(drawn), unit(others.astype(np.float32)))


def test_the_null_lies_above_zero_and_grows_with_the_number_of_atoms(atoms):
    few = null(atoms, atoms[:5])
    many = null(atoms, np.random.default_rng(2).normal(size=(2000, 64)))
    assert 0.1 < few < many < 0.8


def test_a_direction_common_to_all_atoms_is_common_to_the_null(atoms):
    common = 5 * atoms[0]
    assert null(atoms + common, common[None]) > 0.9
    assert null(atoms + common, -common[None]) < -0.9


def test_saes_of_different_layers_are_refused(tmp_path, atoms):
    with pytest.raises(InputError, match="64 and 32 channels"):
        matched_latents.run(
            MatchedLatentSettings(),
            sae_before=save(tmp_path, "b", atoms),
            sae_after=save(tmp_path, "a", atoms[:, :32]),
            effects_before=tmp_path / "x",
            effects_after=tmp_path / "y",
            output=tmp_path / "z.parquet",
        )
