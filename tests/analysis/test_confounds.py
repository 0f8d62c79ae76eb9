from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae.analysis import confounds, probing, truth
from mammo_sae.analysis.levels import levels
from mammo_sae.analysis.settings import ConfoundSettings, ProbingSettings, TruthSettings
from mammo_sae.stores.tables import read_table

SETTINGS = ConfoundSettings(
    acquisition=("marker", "manufacturer", "paddle"),
    anatomical=("density", "view", "side", "rows", "implant"),
    bootstrap_draws=100,
    permutation_draws=199,
    top_latents=8,
)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("confounds")
    common = {"identity": world.identity, "images": world.images, "codes": world.codes}
    probing.run(
        ProbingSettings(bootstrap_draws=20, permutation_draws=199),
        concepts=["mass", "suspicious_calcification"],
        output=root / "latents.parquet",
        **common,
    )
    confounds.run(
        SETTINGS,
        image_stores=world.image_stores,
        latents=root / "latents.parquet",
        concepts=["mass", "suspicious_calcification"],
        output=root / "confounds.parquet",
        **common,
    )
    truth.run(
        TruthSettings(),
        latents=root / "latents.parquet",
        confounds=root / "confounds.parquet",
        output=root / "truth.parquet",
        **common,
    )
    return root


@pytest.fixture(scope="module")
def table(run) -> pd.DataFrame:
    return read_table(run / "confounds.parquet")


def verdict_of(table, world, latent, confounder):
    row = table[
        (table["latent"] == world.latent(latent))
        & (table["confounder"] == confounder)
        & (table["concept"] == "mass")
    ]
    return row.iloc[0]


def test_a_planted_marker_latent_is_confounded_by_the_marker(table, world):
    row = verdict_of(table, world, "marker", "marker")
    assert row["verdict"] == "confounded"
    assert row["crude_auroc"] > 0.65
    assert row["stratified_auroc"] == pytest.approx(0.5, abs=0.06)
    assert row["conditional_auroc"] > 0.9
    assert row["confounder_level"] == "1"
    assert "marker better than mass" in row["reason"]


def test_a_planted_vendor_latent_is_confounded_by_the_manufacturer(table, world):
    row = verdict_of(table, world, "vendor", "manufacturer")
    assert row["verdict"] == "confounded"
    assert row["q"] < 0.05


@pytest.mark.parametrize("confounder", ["marker", "manufacturer", "paddle", "density", "view"])
def test_a_lesion_detector_is_concept_aligned_whatever_the_confounder(table, world, confounder):
    row = verdict_of(table, world, "clean", confounder)
    assert row["verdict"] == "concept-aligned", row["reason"]
    assert row["kept"] > 0.7


def test_the_marker_latent_fires_on_the_artefact_and_the_detector_on_the_lesion(table, world):
    marker, clean = (verdict_of(table, world, name, "marker") for name in ("marker", "clean"))
    assert marker["artefact_lift"] == pytest.approx(96.0, rel=0.05)
    assert np.isnan(marker["concept_lift"]) or marker["concept_lift"] < 1
    assert clean["concept_lift"] == pytest.approx(96.0, rel=0.05)
    assert clean["artefact_lift"] == 0
    assert np.isnan(verdict_of(table, world, "marker", "view")["artefact_lift"])


def test_what_cannot_be_tested_is_insufficient_with_its_reason_and_without_numbers(table, world):
    for confounder, reason in (
        ("implant", "the image table has no column implant"),
        ("side", "1 levels of side"),
    ):
        row = verdict_of(table, world, "clean", confounder)
        assert row["verdict"] == "insufficient"
        assert row["reason"].startswith(reason)
        assert np.isnan(row["stratified_auroc"])
        assert np.isnan(row["q"])
    other = table[table["concept"] == "suspicious_calcification"]
    assert (other["verdict"] == "insufficient").all()


def test_what_png_files_do_not_say_is_not_testable():
    n = 40
    cases = pd.DataFrame(
        {
            "patient_id": [f"p{i // 2}" for i in range(n)],
            "split": "test",
            "view": ["CC", "MLO"] * (n // 2),
            "mass": [i // 2 % 2 for i in range(n)],
            "manufacturer": pd.Series([None] * n, dtype="string"),
            "transfer_syntax": pd.Series(["PNG"] * n, dtype="string"),
        }
    )
    scores = np.random.default_rng(0).random((n, 3))
    rows = confounds.confounder_rows(SETTINGS, cases, scores, "mass", "manufacturer")
    decided = [confounds.verdict(SETTINGS, row) for row in rows.to_dict("records")]
    reason = "not testable: PNG files do not say manufacturer, model, pixel_spacing_mm"
    assert decided == [("insufficient", reason)] * 3


def test_acquisition_and_anatomy_are_told_apart(table):
    kinds = table.groupby("confounder")["kind"].unique().str[0]
    assert kinds["marker"] == kinds["manufacturer"] == kinds["paddle"] == "acquisition"
    assert kinds["density"] == kinds["view"] == "anatomical"


def test_a_numeric_confounder_is_cut_at_its_quartiles(world):
    found = levels(world.table["rows"], 6)
    assert len(found.names) == 4
    assert np.bincount(found.code).min() > 0.2 * len(world.table)


def test_rare_levels_are_merged_and_missing_ones_left_out():
    column = pd.Series(["a"] * 5 + ["b"] * 4 + ["c", "d", None])
    found = levels(column, 3)
    assert found.names == ["a", "b", "other"]
    assert found.code.tolist() == [0] * 5 + [1] * 4 + [2, 2, -1]


def row_of(**changes):
    row = {
        "problem": "",
        "concept": "mass",
        "confounder": "marker",
        "crude_auroc": 0.8,
        "stratified_auroc": 0.78,
        "stratified_auroc_low": 0.72,
        "kept": 0.93,
        "conditional_auroc": 0.55,
        "q": 0.5,
        "artefact_lift": float("nan"),
        "artefact_lift_low": float("nan"),
        "concept_lift": float("nan"),
    }
    return row | changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "concept-aligned"),
        # Shifted by the confounder, but telling the concept better than it.
        ({"conditional_auroc": 0.7, "q": 0.001}, "concept-aligned"),
        ({"conditional_auroc": 0.05, "q": 0.001}, "mixed"),
        ({"conditional_auroc": 0.95, "q": 0.2}, "concept-aligned"),
        (
            {
                "stratified_auroc": 0.53,
                "stratified_auroc_low": 0.47,
                "kept": 0.1,
                "conditional_auroc": 0.9,
                "q": 0.001,
            },
            "confounded",
        ),
        # The association vanishes, yet nothing says that the confounder is read.
        ({"stratified_auroc": 0.53, "stratified_auroc_low": 0.47, "kept": 0.1}, "unresolved"),
        ({"stratified_auroc": 0.6, "stratified_auroc_low": 0.55, "kept": 0.8}, "unresolved"),
        (
            {
                "stratified_auroc": 0.55,
                "stratified_auroc_low": 0.5,
                "kept": 0.3,
                "artefact_lift": 9.0,
                "artefact_lift_low": 6.0,
            },
            "confounded",
        ),
        (
            {
                "stratified_auroc": 0.55,
                "stratified_auroc_low": 0.5,
                "kept": 0.3,
                "artefact_lift": 9.0,
                "artefact_lift_low": 6.0,
                "concept_lift": 12.0,
            },
            "unresolved",
        ),
        ({"problem": "too few"}, "insufficient"),
    ],
)
def test_the_verdict_follows_its_rule(changes, expected):
    assert confounds.verdict(ConfoundSettings(), row_of(**changes))[0] == expected


def test_truth_counts_the_planted_latents_as_called_and_the_clean_ones_as_not(run):
    summary = read_table(run / "truth.parquet").set_index(["confounder", "measure"])
    assert summary.loc[("marker", "recall"), ["latents", "called"]].tolist() == [1, 1]
    assert summary.loc[("manufacturer", "recall"), ["latents", "called"]].tolist() == [1, 1]
    assert summary.loc[("any", "recall"), "value"] == 1.0
    clean = summary.loc[("any", "false_positive_rate")]
    assert clean[["latents", "called"]].tolist() == [2, 0]
    assert clean["high"] > 0.5
    control = summary.loc[("paddle", "false_positive_rate")]
    assert control[["role", "latents", "called"]].tolist() == ["null", 4, 0]
    assert ("paddle", "recall") not in summary.index


def test_truth_says_so_when_no_latent_ranks_for_the_concept(world, run, tmp_path):
    truth.run(
        TruthSettings(concept="suspicious_calcification"),
        identity=world.identity,
        images=world.images,
        codes=world.codes,
        latents=run / "latents.parquet",
        confounds=run / "confounds.parquet",
        output=tmp_path / "truth.parquet",
    )
    summary = read_table(tmp_path / "truth.parquet")
    assert summary["value"].isna().all()
    assert summary["reason"].str.startswith("no latent that ranks").all()
