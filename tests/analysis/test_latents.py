from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis import latents as latents_step
from mammo_sae.analysis.settings import LatentSettings
from mammo_sae.errors import InputError
from mammo_sae.stores import codes
from mammo_sae.stores.tables import read_table, write_table

CONCEPTS = ["mass", "suspicious_calcification"]


@pytest.fixture(scope="module")
def latents(world, tmp_path_factory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("latents") / "latents.parquet"
    latents_step.run(
        LatentSettings(),
        identity=world.identity,
        images=world.images,
        codes=world.codes,
        concepts=CONCEPTS,
        output=path,
    )
    return read_table(path)


def test_there_is_one_row_per_latent_and_concept_with_the_saes_identity(latents, world):
    assert len(latents) == 2 * world.dense.shape[-1]
    assert list(latents.columns[:4]) == ["encoder", "layer", "sae", "seed"]
    assert not latents.duplicated(["latent", "concept"]).any()


def test_the_class_mean_is_the_uncentred_mean_over_all_cells_of_positive_images(latents, world):
    positive = (world.table["split"] == "training") & (world.table["mass"] == 1)
    expected = world.dense[positive.to_numpy()].mean(axis=(0, 1, 2), dtype=np.float64)
    found = latents.loc[latents["concept"] == "mass", "mean_positive"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_class_mean_ranks_generic_tissue_first_and_auroc_the_detector(latents, world):
    mass = latents[latents["concept"] == "mass"].set_index("latent")
    assert mass["rank_class_mean"].idxmin() == world.latent("tissue")
    assert set(mass.nsmallest(2, "rank_auroc").index) == {
        world.latent("clean"),
        world.latent("displaced"),
    }
    assert mass.loc[world.latent("tissue"), "rank_auroc"] > 5


def test_the_sparse_probe_ranks_the_few_latents_it_needs_and_no_other(latents, world):
    mass = latents[latents["concept"] == "mass"].set_index("latent")
    ranked = mass["rank_sparse_probe"].dropna()
    assert 1 <= len(ranked) < len(mass)
    assert ranked.idxmin() in {world.latent("clean"), world.latent("displaced")}
    assert (mass.loc[mass["rank_sparse_probe"].isna(), "sparse_weight"].fillna(0) == 0).all()


def test_the_confirmation_auroc_is_that_of_the_image_maximum_in_the_test_split(latents, world):
    test = (world.table["split"] == "test").to_numpy()
    score = world.dense[test, ..., world.latent("clean")].max(axis=(1, 2))
    row = latents[(latents["concept"] == "mass") & (latents["latent"] == world.latent("clean"))]
    labels = world.table.loc[test, "mass"].astype(int)
    assert row["auroc"].item() == pytest.approx(roc_auc_score(labels, score))
    low, high = st.patient_bootstrap(
        st.auroc, score, labels.to_numpy(), world.table.loc[test, "patient_id"], 200, seed=0
    )
    assert row["auroc_low"].item() == pytest.approx(low, rel=1e-6)
    assert row["auroc_high"].item() == pytest.approx(high, rel=1e-6)
    assert low < row["auroc"].item() < high
    assert row["q"].item() < 0.05


def test_noise_is_rarely_significant(latents, world):
    mass = latents[latents["concept"] == "mass"].set_index("latent")
    noise = [i for i in range(world.dense.shape[-1]) if i not in range(6)]
    assert (mass.loc[noise, "q"] < 0.05).sum() <= 1


def test_a_dead_latent_has_no_rank_and_no_scores_but_a_reason(latents, world):
    row = latents[
        (latents["concept"] == "mass") & (latents["latent"] == world.latent("dead"))
    ].iloc[0]
    assert row["reason"] == "training: the same score on every image"
    assert row[["auroc", "auroc_low", "p", "q", "effect", "discovery_auroc"]].isna().all()
    assert pd.isna(row["rank_auroc"])


def test_a_concept_without_positives_is_not_estimated(latents):
    rows = latents[latents["concept"] == "suspicious_calcification"]
    assert rows[["auroc", "auroc_low", "p", "q", "effect", "mean_positive"]].isna().all().all()
    alive = rows["rank_class_mean"].isna()
    assert alive.all()
    assert (
        rows["reason"].str.startswith("training: 0 patients with a positive image").sum()
        == len(rows) - 1
    )


def test_the_mean_can_be_the_score(world, tmp_path):
    latents_step.run(
        LatentSettings(score="mean"),
        identity=world.identity,
        images=world.images,
        codes=world.codes,
        concepts=["mass"],
        output=tmp_path / "latents.parquet",
    )
    table = read_table(tmp_path / "latents.parquet").set_index("latent")
    test = (world.table["split"] == "test").to_numpy()
    score = world.dense[test, ..., world.latent("noise")].mean(axis=(1, 2))
    expected = roc_auc_score(world.table.loc[test, "mass"].astype(int), score)
    assert table.loc[world.latent("noise"), "auroc"] == pytest.approx(expected, abs=1e-3)
    assert (table["score"] == "mean").all()


def test_the_same_settings_give_the_same_bytes(world, tmp_path):
    for name in ("a", "b"):
        latents_step.run(
            LatentSettings(bootstrap_draws=20, permutation_draws=99),
            identity=world.identity,
            images=world.images,
            codes=world.codes,
            concepts=["mass"],
            output=tmp_path / f"{name}.parquet",
        )
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_an_image_without_a_row_and_an_unknown_concept_are_named(world, tmp_path):
    write_table(world.table.iloc[1:], tmp_path / "images.parquet")
    arguments = {
        "identity": world.identity,
        "codes": world.codes,
        "output": tmp_path / "latents.parquet",
    }
    with pytest.raises(InputError, match=f"image {'0' * 16} has codes but no row"):
        latents_step.run(
            LatentSettings(),
            images=tmp_path / "images.parquet",
            concepts=["mass"],
            **arguments,
        )
    with pytest.raises(InputError, match="no concept 'asymmetry'"):
        latents_step.run(LatentSettings(), images=world.images, concepts=["asymmetry"], **arguments)
    assert not (tmp_path / "latents.parquet").exists()


def test_the_top_latents_are_the_union_over_rankings(latents, world):
    top = case.top_latents(latents, "mass", ("class_mean", "auroc"), 1)
    by_auroc = latents[(latents["concept"] == "mass") & (latents["rank_auroc"] == 1)]
    assert set(top) == {world.latent("tissue"), by_auroc["latent"].item()}


def test_labels_and_scores_of_breasts_and_patients_are_those_of_their_images():
    cases = pd.DataFrame(
        {
            "image_id": list("abcdef"),
            "patient_id": ["p", "p", "p", "q", "q", "r"],
            "split": "test",
            "side": ["L", "L", "R", "L", "L", "R"],
            "view": ["CC", "MLO"] * 3,
            "mass": pd.array([0, 1, 0, 0, None, None], dtype="Int8"),
        }
    )
    scores = np.array([[1.0], [4.0], [2.0], [5.0], [3.0], [0.5]])
    member, breasts = case.units(cases, "breast", ["mass"])
    assert breasts["mass"].tolist() == [1, 0, pd.NA, pd.NA]
    assert case.pool(scores, member, "max").ravel().tolist() == [4, 2, 5, 0.5]
    assert case.pool(scores, member, "mean").ravel().tolist() == [2.5, 2, 4, 0.5]
    member, patients = case.units(cases, "patient", ["mass"])
    assert patients["mass"].tolist() == [1, pd.NA, pd.NA]
    assert case.pool(scores, member, "max").ravel().tolist() == [4, 5, 0.5]


@pytest.mark.parametrize("how", ["max", "mean"])
def test_images_of_a_unit_that_lie_in_several_blocks_are_combined(world, monkeypatch, how):
    monkeypatch.setattr(codes, "BLOCK_BYTES", 1)  # 64 images in a block
    reader = codes.CodesReader(world.codes)
    member = np.random.default_rng(0).permutation(np.arange(len(reader)) % 300)
    member[:200] = 7  # more images than a block has
    member = np.unique(member, return_inverse=True)[1]
    blocks = list(latents_step.unit_rows(reader, "mean", member, how))
    assert len(blocks) > 10
    expected = case.pool(reader.pooled("mean"), member, how)
    np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=1e-5)


def test_the_table_does_not_depend_on_blocks_or_threads(world, tmp_path, monkeypatch):
    written = []
    for name, (size, threads) in {"whole": (1 << 26, 1), "blocks": (1 << 12, 2)}.items():
        monkeypatch.setattr(codes, "BLOCK_BYTES", size)
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        latents_step.run(
            LatentSettings(unit="breast", permutation_draws=99, bootstrap_draws=20),
            identity=world.identity,
            images=world.images,
            codes=world.codes,
            concepts=CONCEPTS,
            output=tmp_path / f"{name}.parquet",
        )
        written.append((tmp_path / f"{name}.parquet").read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("unit", ["breast", "patient"])
def test_the_auroc_can_be_that_of_breasts_or_patients(world, tmp_path, unit):
    latents_step.run(
        LatentSettings(unit=unit, permutation_draws=99, bootstrap_draws=20),
        identity=world.identity,
        images=world.images,
        codes=world.codes,
        concepts=["mass"],
        output=tmp_path / "latents.parquet",
    )
    table = read_table(tmp_path / "latents.parquet").set_index("latent")
    assert set(table["unit"]) == {unit}
    test = (world.table["split"] == "test").to_numpy()
    score = world.dense[test][..., world.latent("clean")].max(axis=(1, 2))
    patient = world.table.loc[test, "patient_id"].to_numpy()
    highest = pd.Series(score).groupby(patient).max()
    label = world.table.loc[test, "mass"].astype(int).groupby(patient).max()
    expected = roc_auc_score(label, highest)
    assert table.loc[world.latent("clean"), "auroc"] == pytest.approx(expected)


def test_the_class_contrast_ranks_by_the_size_of_the_difference(latents):
    mass = latents[(latents["concept"] == "mass") & latents["rank_class_contrast"].notna()]
    ordered = mass.sort_values("rank_class_contrast")["mean_difference"].abs().to_numpy()
    assert (np.diff(ordered) <= 0).all()
