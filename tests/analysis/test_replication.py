from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae import statistics as st
from mammo_sae.analysis import confounds, latents, replication
from mammo_sae.analysis.settings import ConfoundSettings, JudgementSettings, LatentSettings
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table, write_table

LATENT_SETTINGS = LatentSettings(bootstrap_draws=40, permutation_draws=199)
SETTINGS = JudgementSettings(
    splits=("external", "validation"),
    latents=LATENT_SETTINGS,
    confounds=ConfoundSettings(
        acquisition=("marker", "manufacturer", "paddle"),
        anatomical=("density", "view"),
        bootstrap_draws=40,
        permutation_draws=199,
        top_latents=8,
    ),
)


@pytest.fixture(scope="module")
def common(world):
    return {
        "identity": world.identity,
        "images": world.images,
        "codes": world.codes,
        "concepts": ["mass", "suspicious_calcification"],
    }


@pytest.fixture(scope="module")
def run(world, common, tmp_path_factory):
    root = tmp_path_factory.mktemp("replication")
    stores = {"image_stores": world.image_stores, "measurements": world.measurements}
    latents.run(LATENT_SETTINGS, output=root / "latents.parquet", **common)
    confounds.run(
        SETTINGS.confounds,
        latents=root / "latents.parquet",
        output=root / "confounds.parquet",
        **stores,
        **common,
    )
    tables = {name: root / f"{name}.parquet" for name in ("replication", "verdict_replication")}
    replication.run(SETTINGS, confounds=root / "confounds.parquet", **stores, **tables, **common)
    return {
        "root": root,
        "stores": stores,
        "confounds": read_table(root / "confounds.parquet"),
        **{name: read_table(path) for name, path in tables.items()},
    }


def row_of(run, world, name, split="external"):
    table = run["replication"]
    found = table[(table["latent"] == world.latent(name)) & (table["split"] == split)]
    assert len(found) == 1
    return found.iloc[0]


def test_the_latents_that_are_associated_on_the_confirmation_split_are_judged_again(run):
    tested = run["confounds"]
    associated = tested[tested["verdict"] != "not associated"]
    expected = set(associated.loc[associated["concept"] == "mass", "latent"])
    for split in SETTINGS.splits:
        here = run["replication"][run["replication"]["split"] == split]
        assert set(here["latent"]) == expected
        assert set(here["concept"]) == {"mass"}  # no image is positive for the other concept


def test_a_lesion_detector_repeats_its_verdict_and_a_marker_detector_loses_its_association(
    run, world
):
    clean, marker = (row_of(run, world, name) for name in ("clean", "marker"))
    assert (clean["verdict"], clean["split_verdict"]) == ("concept-aligned", "concept-aligned")
    assert clean["repeated"]
    assert marker["verdict"] == "confounded"
    assert marker["confounders"] == "marker"
    assert marker["split_verdict"] == "not associated"
    assert marker["split_confounders"] == ""
    assert not marker["repeated"]
    assert "not associated with mass" in marker["reason"]


def test_the_auroc_is_that_of_the_splits_images_with_their_patients_interval(run, world):
    here = (world.table["split"] == "external").to_numpy()
    truth = world.table.loc[here, "mass"].to_numpy(dtype=int)
    patients = world.table.loc[here, "patient_id"].to_numpy()
    pooled = CodesReader(world.codes).pooled("max")[here]
    for name in ("clean", "marker", "vendor"):
        row = row_of(run, world, name)
        scores = pooled[:, world.latent(name)]
        assert row["split_auroc"] == pytest.approx(st.auroc(scores, truth))
        low, high = st.patient_bootstrap(st.auroc, scores, truth, patients, 40, 0)
        assert (row["split_auroc_low"], row["split_auroc_high"]) == pytest.approx((low, high))


def test_the_family_of_the_q_values_holds_the_judged_latents_alone(run):
    here = run["replication"][run["replication"]["split"] == "external"]
    np.testing.assert_allclose(here["split_q"], st.benjamini_hochberg(here["split_p"]))


def test_a_split_without_images_judges_nothing_and_says_why(run, world):
    row = row_of(run, world, "clean", "validation")
    assert row["split_verdict"] == "insufficient"
    assert pd.isna(row["split_auroc"])
    assert pd.isna(row["repeated"])
    assert "0 patients with a positive image, fewer than 10" in row["reason"]
    shares = run["verdict_replication"]
    here = shares[shares["split"] == "validation"]
    assert (here["tested"] == 0).all()
    assert here["share"].isna().all()
    assert set(here["reason"]) == {"no latent was judged on both splits"}


def test_the_share_of_repeated_verdicts_is_that_of_the_rows(run):
    shares = run["verdict_replication"]
    here = shares[(shares["split"] == "external") & (shares["concept"] == "mass")]
    rows = run["replication"][run["replication"]["split"] == "external"]
    for row in here.to_dict("records"):
        mine = rows if row["verdict"] == "all" else rows[rows["verdict"] == row["verdict"]]
        tested = mine["repeated"].notna()
        assert (row["latents"], row["tested"]) == (len(mine), tested.sum())
        assert row["repeated"] == mine["repeated"].sum()
        if row["tested"]:
            assert row["share"] == row["repeated"] / row["tested"]
    aligned = here[here["verdict"] == "concept-aligned"].iloc[0]
    assert aligned["repeated"] >= 1


def test_the_same_verdict_in_the_opposite_direction_is_not_repeated():
    table = pd.DataFrame(
        {
            "verdict": ["concept-aligned"] * 3 + ["insufficient"],
            "auroc": [0.8, 0.8, 0.2, 0.8],
            "split_auroc": [0.7, 0.3, 0.3, 0.9],
            "split_verdict": ["concept-aligned"] * 4,
        }
    )
    found = replication.comparable(table)
    assert found[:3].tolist() == ["concept-aligned", "opposite direction", "concept-aligned"]
    assert found.isna().tolist() == [False, False, False, True]
    assert replication.share_of(table)["repeated"].tolist() == [2, 2, 0]


def test_scores_of_patients_are_compared_where_latents_are_ranked_by_patients(
    run, world, common, tmp_path
):
    settings = SETTINGS.model_copy(
        update={
            "splits": ("external",),
            "latents": LATENT_SETTINGS.model_copy(update={"unit": "patient"}),
        }
    )
    tables = {n: tmp_path / f"{n}.parquet" for n in ("replication", "verdict_replication")}
    path = run["root"] / "confounds.parquet"
    replication.run(settings, confounds=path, **run["stores"], **tables, **common)
    table = read_table(tables["replication"]).set_index("latent")
    here = world.table[world.table["split"] == "external"]
    pooled = CodesReader(world.codes).pooled("max", here["image_id"].tolist())
    scores = pd.Series(pooled[:, world.latent("clean")]).groupby(here["patient_id"].to_numpy())
    truth = here.groupby("patient_id")["mass"].max().astype(int)
    expected = st.auroc(scores.max().to_numpy(), truth.to_numpy())
    assert table.loc[world.latent("clean"), "split_auroc"] == pytest.approx(expected)


def test_without_an_associated_latent_the_tables_are_empty(run, common, tmp_path):
    write_table(run["confounds"].iloc[:0], tmp_path / "confounds.parquet")
    tables = {n: tmp_path / f"{n}.parquet" for n in ("replication", "verdict_replication")}
    replication.run(
        SETTINGS, confounds=tmp_path / "confounds.parquet", **run["stores"], **tables, **common
    )
    empty = read_table(tables["replication"])
    assert len(empty) == 0
    assert set(empty) == set(run["replication"])
    shares = read_table(tables["verdict_replication"])
    assert (shares["latents"] == 0).all()
