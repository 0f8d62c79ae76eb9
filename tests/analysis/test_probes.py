from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae import statistics as st
from mammo_sae.analysis import probes
from mammo_sae.analysis.settings import ProbesSettings
from mammo_sae.regression.ordinal import concordance
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import create_embedding_store
from mammo_sae.stores.tables import read_table
from scikit_fits import standardised

SETTINGS = ProbesSettings(
    bootstrap_draws=50,
    k=(1, 2, 5),
    acquisition=("marker", "manufacturer", "paddle"),
    anatomical=("density", "implant"),
    penalties=(0.01, 0.1),
    l1_penalties=(0.03, 0.1),
)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory) -> pd.DataFrame:
    root = tmp_path_factory.mktemp("probes")
    grid = CodesReader(world.codes).grid
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(world.dense.shape[-1], grid.channels))
    with create_embedding_store(
        root / "0", root / "0.json", image_ids=world.table["image_id"].tolist(), grids=[grid]
    ) as writer:
        writer.write({"head": world.dense @ atoms})
    probes.run(
        SETTINGS,
        identity=world.identity,
        images=world.images,
        embeddings=[root / "0.json"],
        codes=world.codes,
        concepts=["mass", "suspicious_calcification"],
        output=root / "probes.parquet",
    )
    means = probes.mean_embeddings(
        [root / "0.json"], "head", world.table["image_id"][::-1].tolist()
    )
    expected = (world.dense @ atoms).mean(axis=(1, 2))[::-1]
    np.testing.assert_allclose(means.times(np.eye(grid.channels)), expected, atol=5e-3)
    return read_table(root / "probes.parquet")


def auroc_of(table, **where):
    where = {"split": "external", "features": "codes", **where}
    found = table[np.logical_and.reduce([table[k].eq(v).fillna(False) for k, v in where.items()])]
    assert len(found) == 1, where
    return found.iloc[0]


def test_probes_read_information_of_the_codes_on_unseen_patients(run):
    for target in ("mass", "marker", "manufacturer", "paddle"):
        row = auroc_of(run, target=target, probe="l2")
        assert row["auroc"] > 0.75, target
        assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]


def test_one_latent_suffices_for_a_concept_of_one_latent(run):
    assert auroc_of(run, target="marker", probe="sparse", k=1)["auroc"] > 0.95
    assert auroc_of(run, target="mass", probe="sparse", k=2)["auroc"] > 0.8


def test_probes_do_not_read_information_that_the_codes_lack(run):
    rows = run[(run["target"] == "density") & (run["split"] == "external")]
    assert set(rows["level"]) == {"A", "B", "C", "D", "macro", "ordered"}
    assert (rows["auroc"] - 0.5).abs().max() < 0.15


def test_absent_columns_and_absent_positives_give_reasons(run):
    absent = run[run["target"] == "implant"]
    assert len(absent)
    assert absent["auroc"].isna().all()
    other = run[run["target"] == "suspicious_calcification"]
    assert (other["reason"] == "training: 0 patients with a positive image, fewer than 10").all()


def test_the_l2_probe_is_the_one_of_scikit_learn(world):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    features, truth = rng.normal(size=(60, 90)), rng.random(40) < 0.5
    found = np.arange(40)
    settings = ProbesSettings(penalties=(0.01,))
    cases = pd.DataFrame({"patient_id": np.arange(60)})
    probe = probes.Probe(settings, cases, "codes", features)
    [one] = next(fit for name, _, fit in probe.kinds() if name == "l2")(found, truth[:, None], 0)
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000, tol=1e-8)
    standard = standardised(features, found)
    expected = model.fit(standard[:40], truth).decision_function(standard)
    assert one.penalty == 0.01
    np.testing.assert_allclose(one.scores, expected, atol=1e-3)
    assert st.auroc(one.scores[:40], truth) > 0.9


def test_density_is_also_read_as_one_problem_of_four_classes(run):
    rows = run[(run["target"] == "density") & (run["features"] == "codes") & (run["probe"] == "l2")]
    rows = rows[rows["split"] == "external"].set_index("level")["auroc"]
    assert rows["macro"] == pytest.approx(rows[["A", "B", "C", "D"]].mean())
    assert "macro" not in set(run.loc[run["target"] == "mass", "level"])


def test_l1_leaves_few_latents_and_pca_reads_the_components_asked_for(run):
    lasso = auroc_of(run, target="marker", probe="l1")
    assert lasso["auroc"] > 0.9
    assert 1 <= lasso["k"] < 32
    assert auroc_of(run, target="mass", probe="pca", features="embedding")["k"] == 4


def made_up(rng, split, patients=80):
    """Two images per patient with shared features; labels are random."""
    patient = np.repeat(np.arange(patients), 2)
    features = rng.normal(size=(patients, 120))[patient]
    labels = (rng.random(patients) < 0.5)[patient].astype(float)
    cases = pd.DataFrame({"patient_id": patient, "split": split})
    return cases, features, labels


@pytest.mark.parametrize("name", ["l2", "l1", "sparse"])
def test_the_discovery_split_is_scored_by_probes_that_have_not_seen_the_patient(name):
    cases, features, labels = made_up(np.random.default_rng(5), "training")
    settings = ProbesSettings(
        splits=("training",), bootstrap_draws=20, k=(5,), l1_penalties=(0.1,), outer_folds=4
    )
    probe = probes.Probe(settings, cases, "codes", features)
    scored = probes.score(settings, cases, [probe], [labels])
    [(_, table)] = probes.rows_of(["1"], scored)
    [row] = table[table["probe"] == name].to_dict("records")
    assert abs(row["auroc"] - 0.5) < 0.2
    k, fit = next((k, fit) for kind, k, fit in probe.kinds() if kind == name)
    [seen] = fit(np.arange(160), labels[:, None] == 1, k)
    assert st.auroc(seen.scores, labels == 1) > 0.75


@pytest.mark.parametrize("is_rare", [True, False])
def test_a_fold_whose_training_images_have_one_class_chooses_no_penalty(is_rare):
    patient = np.repeat(np.arange(4), 6)
    truth = (np.arange(24) < 3) == is_rare
    features = np.random.default_rng(8).normal(size=(24, 5))
    settings = ProbesSettings(penalties=(0.3, 0.1), folds=4)
    probe = probes.Probe(settings, pd.DataFrame({"patient_id": patient}), "codes", features)
    fit = next(fit for name, _, fit in probe.kinds() if name == "l2")
    [one] = fit(np.arange(24), truth[:, None], 0)
    assert one.penalty == 0.3
    assert st.auroc(one.scores, truth) > 0.8


def test_ordered_levels_are_read_as_one_scale():
    rng = np.random.default_rng(6)
    cases, features, _ = made_up(rng, np.repeat(["training", "test"], 80))
    level = np.repeat(rng.integers(0, 4, 80), 2)
    features[:, 3] = level + rng.normal(size=160) * 0.3
    cases["density"] = np.array(list("ABCD"))[level]
    settings = ProbesSettings(splits=("training", "test"), bootstrap_draws=50)
    probe = probes.Probe(settings, cases, "codes", features)
    table = probes.read_ordered(settings, cases, [probe], cases["density"]).set_index("split")
    assert (table["auroc"] > 0.65).all()
    assert (table["auroc_low"] < table["auroc"]).all()
    few = cases.assign(density=np.where(np.arange(160) < 4, "A", "B"))
    table = probes.read_ordered(settings, few, [probe], few["density"])
    assert table["auroc"].isna().all()
    assert (table["reason"] == "training: fewer than 2 levels with 10 patients").all()


@pytest.mark.parametrize("penalties", [(1e-300, 1.0), (1.0, 1e-300)])
def test_the_penalty_of_an_ordered_probe_is_chosen_by_concordance(penalties):
    """With a strength of 1e-300 all weights are 0, so no pair of images is in order."""
    rng = np.random.default_rng(4)
    level = rng.integers(4, size=80)
    values = rng.normal(size=(80, 3)).astype(np.float32)
    values[:, 1] += 3 * level
    cases = pd.DataFrame({"patient_id": [f"{number:02d}" for number in range(80)]})
    settings = ProbesSettings(penalties=penalties, folds=2)
    probe = probes.Probe(settings, cases, "embedding", values)
    [one] = probe.ordered(np.arange(80), level[:, None].astype(str), 3)
    assert one.penalty == 1.0
    assert concordance(one.scores, level) > 0.97
