from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mammo_sae.analysis import absorption, main_latents
from mammo_sae.analysis.cases import Identity
from mammo_sae.analysis.settings import AbsorptionSettings
from mammo_sae.errors import InputError
from mammo_sae.grids import LayerGrid
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import create_codes_store
from mammo_sae.stores.embeddings import create_embedding_store
from mammo_sae.stores.tables import read_table, write_table

SETTINGS = AbsorptionSettings(bootstrap_draws=40)
LATENTS, CHANNELS = 14, 32
NOISE = 13  # fires in half of all images
EACH = 400  # positive images of each split, and negative ones; one per patient


def make(folder, codes, atoms, labels=None, layer="head"):
    """Return the table for mean codes [n, h]: training images first, then those of the test."""
    n = len(codes)
    truth = np.tile(np.repeat([1, 0], EACH), 2) if labels is None else labels
    ids = [f"{i:016x}" for i in range(n)]
    table = pd.DataFrame({"image_id": ids, "patient_id": ids})
    table["split"] = np.repeat(["training", "test"], n // 2)
    table["mass"] = pd.array(truth, "Int8")
    write_table(table, folder / "images.parquet")
    with create_codes_store(
        folder / "codes.zarr",
        folder / "codes.json",
        image_ids=ids,
        grid=LayerGrid(layer, CHANNELS, 1, 1, 32, 0.0, 0.0, 31),
        latents=LATENTS,
        k=LATENTS,
    ) as writer:
        cells = codes.astype(np.float32)[:, None, None, :]
        index = np.broadcast_to(np.arange(LATENTS), cells.shape)
        pooled = {"mean": codes, "max": codes, "active": codes > 0}
        pooled = {name: values.astype(np.float32) for name, values in pooled.items()}
        pooled |= {f"{name}_breast": values for name, values in pooled.items()}
        writer.write(range(n), np.where(cells > 0, index, 0), cells, pooled)
    weights = torch.from_numpy(atoms.astype(np.float32))
    SparseAutoencoder(
        weights.clone(), torch.zeros(LATENTS), weights, torch.zeros(CHANNELS), k=LATENTS
    ).save(folder / "sae.safetensors", folder / "sae.json")
    grid = LayerGrid("pooled", CHANNELS, 1, 1, 0, 0.0, 0.0, 0)
    with create_embedding_store(
        folder / "pooled", folder / "pooled.json", image_ids=ids, grids=[grid]
    ) as writer:
        writer.write({"pooled": (codes @ atoms).astype(np.float32)[:, None, None, :]})
    found = slice(0, n // 2)
    yes, no = (codes[found][truth[found] == value] for value in (1, 0))
    effect = pd.Series((yes.mean(axis=0) if len(yes) else np.nan) - no.mean(axis=0))
    ranked = pd.DataFrame({"latent": np.arange(LATENTS), "concept": "mass", "effect": effect})
    ranked["rank_effect"] = effect.rank(ascending=False, method="first").astype("Int32")
    write_table(ranked, folder / "latents.parquet")
    absorption.run(
        SETTINGS,
        identity=Identity("finetuned", layer, "topk", 0),
        images=folder / "images.parquet",
        embeddings=[folder / "pooled.json"],
        codes=folder / "codes.json",
        sae=folder / "sae.json",
        latents=folder / "latents.parquet",
        concepts=["mass"],
        output=folder / "absorption.parquet",
    )
    return read_table(folder / "absorption.parquet")


def silent_codes():
    """Return codes [4 EACH, h] of images without the concept: only the noise fires."""
    codes = np.zeros((4 * EACH, LATENTS))
    codes[::2, NOISE] = 1.0
    return codes


def aligned_atoms(latents):
    """Return atoms with a part of their own each; those of `latents` share the direction 0."""
    atoms = np.zeros((LATENTS, CHANNELS))
    atoms[np.arange(LATENTS), 1 + np.arange(LATENTS)] = 1.0
    atoms[latents, 0] = 2.0
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


POSITIVE = (np.arange(EACH), 2 * EACH + np.arange(EACH))  # of training, of test


def test_ten_absorbers_of_a_fortieth_of_the_positives_each_give_a_rate_of_a_quarter(tmp_path):
    codes = silent_codes()
    for rows in POSITIVE:
        codes[rows[100:], 0] = 1.0
        for absorber in range(10):
            codes[rows[10 * absorber : 10 * absorber + 10], 1 + absorber] = 1.0
    row = make(tmp_path, codes, aligned_atoms(np.arange(11))).iloc[0]
    assert (row["main_latents"], row["latents"]) == (1, "0")
    assert (row["recognised"], row["absorbed"]) == (EACH, 100)
    assert row["absorption"] == 0.25
    assert row["absorption_low"] < 0.25 < row["absorption_high"]
    assert row["absorption_fraction"] == 0.25
    assert row["absorbers"] == "1 (10), 2 (10), 3 (10)"
    # The main latent calls 300 of 400 positives and no negative: F1 = 600 / 700.
    assert row["first_f1"] == row["main_f1"] == pytest.approx(6 / 7)
    assert row["reason"] == ""


def test_latents_that_do_not_point_along_the_probe_absorb_nothing(tmp_path):
    codes = silent_codes()
    for rows in POSITIVE:
        codes[rows, 11] = 1.0  # what makes the images recognisable, and what no latent shares
        codes[rows[100:], 0] = 1.0
        codes[rows[:100], 1] = 1.0
    atoms = aligned_atoms(np.array([0, 11]))
    atoms[1] = 0.0
    atoms[1, 30] = -1.0
    table = make(tmp_path, codes, atoms)
    # The concept's latents are those that always fire, and latent 1 does not point along them.
    assert table.loc[0, "latents"] == "11"
    assert table.loc[0, "absorbed"] == 0


def test_two_half_detectors_are_a_split_of_two(tmp_path):
    codes = silent_codes()
    for rows in POSITIVE:
        codes[rows[: EACH // 2], 0] = 1.0
        codes[rows[EACH // 2 :], 1] = 1.0
    row = make(tmp_path, codes, aligned_atoms(np.array([0, 1]))).iloc[0]
    assert row["main_latents"] == 2
    assert set(row["latents"].split(", ")) == {"0", "1"}
    # Half of the positives: F1 = 400 / 600. Both: F1 = 1.
    assert row["first_f1"] == pytest.approx(2 / 3)
    assert row["main_f1"] == 1.0
    assert (row["absorbed"], row["absorption"]) == (0, 0.0)


def test_one_clean_detector_is_neither_split_nor_absorbed(tmp_path):
    codes = silent_codes()
    for rows in POSITIVE:
        codes[rows, 0] = 1.0
    row = make(tmp_path, codes, aligned_atoms(np.array([0]))).iloc[0]
    assert (row["main_latents"], row["latents"]) == (1, "0")
    assert (row["first_f1"], row["main_f1"]) == (1.0, 1.0)
    assert (row["recognised"], row["absorbed"], row["absorbers"]) == (EACH, 0, "")
    assert (row["absorption"], row["absorption_fraction"]) == (0.0, 0.0)
    assert (row["absorption_low"], row["absorption_high"]) == (0.0, 0.0)


def test_a_concept_with_too_few_positive_patients_has_a_reason_and_no_number(tmp_path):
    labels = np.zeros(4 * EACH, int)
    labels[:9], labels[2 * EACH : 2 * EACH + 50] = 1, 1
    row = make(tmp_path, silent_codes(), aligned_atoms(np.array([0])), labels).iloc[0]
    assert row["reason"] == "training: 9 patients with a positive image, fewer than 10"
    assert row[["main_latents", "recognised", "absorbed"]].isna().all()
    assert row[["first_f1", "main_f1", "absorption", "absorption_fraction"]].isna().all()


def test_a_concept_that_no_latent_follows_has_a_reason(tmp_path):
    row = make(tmp_path, silent_codes(), aligned_atoms(np.array([0]))).iloc[0]
    assert row["reason"] == "training: no latent predicts mass"
    assert pd.isna(row["main_latents"])


def test_codes_of_an_inner_layer_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds codes of layer blocks\.10; absorption compares"):
        make(tmp_path, silent_codes(), aligned_atoms(np.array([0])), layer="blocks.10")


def test_a_concept_is_split_as_long_as_one_more_latent_gains_three_hundredths():
    assert main_latents.main_count([0.5]) == 1
    assert main_latents.main_count([0.5, 0.52, 0.9]) == 1
    assert main_latents.main_count([0.5, 0.5625, 0.625, 0.64]) == 3


@pytest.mark.parametrize(
    ("silent", "parts", "evidence", "column", "fraction"),
    [
        (True, [0.0, 0.4, 0.1, 0.0], 1.0, 1, 1.0),
        (True, [0.0, 0.3, 0.2, 0.1], 1.0, -1, 1.0),  # three together carry 0.6
        (True, [0.0, 0.3, 0.05, 0.04], 1.0, -1, 0.0),  # three together carry 0.39
        (False, [0.25, 0.5, 0.0, 0.0], 1.0, -1, 2 / 3),  # the main latent fires weakly
        (False, [0.75, 0.5, 0.0, 0.0], 1.0, -1, 0.25),  # the others count for what it leaves
        (False, [1.0, 0.5, 0.0, 0.0], 1.0, -1, 0.0),  # it leaves nothing
        (True, [0.0, 0.5, 0.0, 0.0], -1.0, -1, 0.0),  # the image has no evidence
    ],
)
def test_the_absorber_and_the_fraction_follow_from_the_parts(
    silent, parts, evidence, column, fraction
):
    found, share = absorption.absorbed(
        np.array([silent]),
        np.array([parts]),
        np.array([True, False, False, False]),
        np.array([evidence]),
    )
    assert found.tolist() == [column]
    assert share[0] == pytest.approx(fraction)
