from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae import statistics as st
from mammo_sae.analysis import confounds, latents
from mammo_sae.analysis.levels import levels
from mammo_sae.analysis.settings import ConfoundSettings, LatentSettings
from mammo_sae.analysis.verdict import JUDGED, SUSPECT, overall, verdict
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table

SETTINGS = ConfoundSettings(
    acquisition=("marker", "manufacturer", "paddle", "marker_area", "noise", "edge_brightness"),
    anatomical=("density", "view", "side", "rows", "implant"),
    bootstrap_draws=100,
    permutation_draws=199,
    top_latents=8,
)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("confounds")
    common = {"identity": world.identity, "images": world.images, "codes": world.codes}
    latents.run(
        LatentSettings(bootstrap_draws=20, permutation_draws=199),
        concepts=["mass", "suspicious_calcification"],
        output=root / "latents.parquet",
        **common,
    )
    confounds.run(
        SETTINGS,
        image_stores=world.image_stores,
        measurements=world.measurements,
        latents=root / "latents.parquet",
        concepts=["mass", "suspicious_calcification"],
        output=root / "confounds.parquet",
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


def test_a_planted_marker_latent_is_confounded_by_the_measured_marker(table, world):
    row = verdict_of(table, world, "marker", "marker_area")
    assert row["verdict"] == "confounded"
    assert row["kind"] == "acquisition"
    assert row["confounder_level"] == "other"  # than 0
    assert row["conditional_auroc"] > 0.9
    assert verdict_of(table, world, "clean", "marker_area")["verdict"] == "concept-aligned"
    assert not verdict_of(table, world, "marker", "noise")["discriminates"]


def test_a_measurement_that_no_image_has_is_not_testable(table, world):
    row = verdict_of(table, world, "marker", "edge_brightness")
    assert row["verdict"] == "insufficient"
    assert row["reason"] == (
        "not testable: edge_brightness could not be measured "
        "(the breast covers too little of the chest wall)"
    )
    assert np.isnan(row["q"])


def test_without_a_list_the_measurements_are_candidates_of_their_kind(world, run, tmp_path):
    confounds.run(
        ConfoundSettings(bootstrap_draws=20, permutation_draws=99, top_latents=1),
        identity=world.identity,
        images=world.images,
        codes=world.codes,
        image_stores=world.image_stores,
        measurements=world.measurements,
        latents=run / "latents.parquet",
        concepts=["mass", "suspicious_calcification"],
        output=tmp_path / "confounds.parquet",
    )
    found = read_table(tmp_path / "confounds.parquet").groupby("kind")["confounder"].unique()
    # The mean grey and the breast's area are the same in every image.
    assert set(found["acquisition"]) == {
        "marker", "paddle", "manufacturer", "image_size",
        "marker_area", "noise", "sharpness", "edge_brightness",
    }  # fmt: skip
    assert set(found["anatomical"]) == {"density", "view", "density_estimate"}


def test_a_planted_vendor_latent_is_confounded_by_the_manufacturer(table, world):
    row = verdict_of(table, world, "vendor", "manufacturer")
    assert row["verdict"] == "confounded"
    assert row["q"] < 0.05


@pytest.mark.parametrize("confounder", ["marker", "manufacturer", "paddle", "density", "view"])
def test_a_lesion_detector_is_concept_aligned_for_every_confounder(table, world, confounder):
    row = verdict_of(table, world, "clean", confounder)
    assert row["verdict"] == "concept-aligned", row["reason"]
    assert row["kept"] > 0.7


def test_of_several_levels_the_named_one_has_the_numbers_of_the_row(table, world):
    test = (world.table["split"] == "test").to_numpy()
    rows = table[(table["confounder"] == "density") & (table["concept"] == "mass")]
    assert rows["confounder_level"].nunique() > 1
    density = world.table.loc[test, "density"].to_numpy()
    pooled = CodesReader(world.codes).pooled(LatentSettings().score)[test]
    for row in rows.dropna(subset="conditional_auroc").to_dict("records"):
        scores = pooled[:, row["latent"]]
        has_level = density == row["confounder_level"]
        assert row["confounder_auroc"] == pytest.approx(st.auroc(scores, has_level))
        low, high = row["conditional_auroc_low"], row["conditional_auroc_high"]
        assert low < row["conditional_auroc"] < high


def test_the_marker_latent_fires_on_the_artefact_and_the_detector_on_the_lesion(table, world):
    marker, clean = (verdict_of(table, world, name, "marker") for name in ("marker", "clean"))
    assert marker["artefact_lift"] == pytest.approx(96.0, rel=0.05)
    assert np.isnan(marker["concept_lift"]) or marker["concept_lift"] < 1
    assert clean["concept_lift"] == pytest.approx(96.0, rel=0.05)
    assert clean["artefact_lift"] == 0
    assert np.isnan(verdict_of(table, world, "marker", "view")["artefact_lift"])


def test_a_confounder_that_cannot_be_tested_is_insufficient_with_a_reason(table, world):
    for confounder, reason in (
        ("implant", "the image table has no column implant"),
        ("side", "1 level of side has"),
    ):
        row = verdict_of(table, world, "clean", confounder)
        assert row["verdict"] == "insufficient"
        assert row["reason"].startswith(reason)
        assert np.isnan(row["stratified_auroc"])
        assert np.isnan(row["q"])
    other = table[table["concept"] == "suspicious_calcification"]
    assert (other["verdict"] == "insufficient").all()


def test_values_that_png_files_lack_are_not_testable():
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
    reason = "not testable: PNG files do not record manufacturer, model, pixel_spacing_mm"
    assert rows["problem"].tolist() == [reason] * 3


def test_acquisition_and_anatomy_are_distinguished(table):
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
        "inseparable": False,
        "association": 0.3,
        "no_association": "",
        "kind": "acquisition",
        "concept_auroc": 0.8,
        "concept_q": 0.001,
        "concept": "mass",
        "confounder": "marker",
        "crude_auroc": 0.8,
        "stratified_auroc": 0.78,
        "stratified_auroc_low": 0.72,
        "stratified_auroc_high": 0.84,
        "kept": 0.93,
        "association_p": 0.001,
        "conditional_auroc": 0.55,
        "q": 0.5,
        "artefact_lift": float("nan"),
        "artefact_lift_low": float("nan"),
        "concept_lift": float("nan"),
    }
    return row | changes


FADED = {"stratified_auroc": 0.53, "stratified_auroc_low": 0.47, "kept": 0.1}
DISCRIMINATED = {"conditional_auroc": 0.95, "q": 0.001}
BELOW = {
    "concept_auroc": 0.2, "crude_auroc": 0.2, "stratified_auroc": 0.22,
    "stratified_auroc_low": 0.16, "stratified_auroc_high": 0.28,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "concept-aligned"),
        # The latent depends on the confounder, but it discriminates the concept better.
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
        # The association vanishes, but the latent does not discriminate the confounder.
        ({"stratified_auroc": 0.53, "stratified_auroc_low": 0.47, "kept": 0.1}, "unresolved"),
        ({"stratified_auroc": 0.6, "stratified_auroc_low": 0.55, "kept": 0.8}, "unresolved"),
        # Activation on the artefact alone does not make a latent confounded, because only q has a
        # controlled error rate.
        ({**FADED, "artefact_lift": 9.0, "artefact_lift_low": 6.0}, "unresolved"),
        ({**FADED, **DISCRIMINATED, "kind": "anatomical"}, "anatomy"),
        ({**DISCRIMINATED, "kind": "anatomical"}, "mixed"),
        ({"problem": "too few"}, "insufficient"),
        ({"problem": "too few", "inseparable": True}, "unresolved"),
        ({"problem": "too few", "inseparable": True, "concept_q": 0.3}, "not associated"),
        # A confounder that is not associated with the concept can't explain it, even if the latent
        # discriminates it well.
        ({**DISCRIMINATED, "association_p": 0.3}, "concept-aligned"),
        ({**FADED, **DISCRIMINATED, "association_p": 0.3}, "unresolved"),
        # Without an association with the concept a latent is never confounded.
        ({**FADED, **DISCRIMINATED, "concept_q": 0.05}, "not associated"),
        ({**DISCRIMINATED, "concept_q": 0.6, "problem": "too few"}, "not associated"),
        ({"no_association": "test: one class", "concept_q": float("nan")}, "insufficient"),
        # For a latent that is less active where the concept is present, the rule holds in the other
        # direction.
        (BELOW, "concept-aligned"),
        ({**BELOW, "stratified_auroc_high": 0.45}, "unresolved"),
        ({**BELOW, **DISCRIMINATED}, "mixed"),
        ({**BELOW, **DISCRIMINATED, "stratified_auroc_high": 0.45}, "confounded"),
    ],
)
def test_the_verdict_follows_its_rule(changes, expected):
    assert verdict(ConfoundSettings(), row_of(**changes))[0] == expected


@pytest.mark.parametrize(
    ("low", "on_concept", "said"),
    [
        (0.9, np.nan, False),
        (1.1, np.nan, True),
        (1.1, 1.4, True),
        (1.1, 1.5, False),
        (1.1, 2.0, False),
    ],
)
def test_only_a_lift_surely_above_chance_and_above_the_concepts_is_a_reason(low, on_concept, said):
    lifts = {"artefact_lift": 1.5, "artefact_lift_low": low, "concept_lift": on_concept}
    row = row_of(**FADED, **DISCRIMINATED, **lifts)
    reason = verdict(ConfoundSettings(), row)[1]
    assert reason.endswith("and it fires on the artefact (1.5 times chance)") == said


def test_the_reason_is_a_sentence_with_its_numbers():
    assert verdict(ConfoundSettings(), row_of(**FADED, **DISCRIMINATED))[1] == (
        "its AUROC for mass is 0.80, among images alike in marker 0.53; its AUROC for marker among "
        "images alike in mass is 0.95 (q 0.001): under 50% of the association remains and it "
        "discriminates marker better than mass"
    )
    said = verdict(ConfoundSettings(), row_of(**DISCRIMINATED, concept_auroc=0.52, concept_q=0.4))[
        1
    ]
    assert said == (
        "not associated with mass (AUROC 0.52, q 0.400); "
        "it discriminates marker (AUROC 0.95, q 0.001)"
    )


def test_a_reason_never_says_that_a_p_or_q_value_is_zero():
    for changes in ({"q": 1e-5}, {"concept_q": 0.2, "q": 1e-5, "conditional_auroc": 0.9}):
        reason = verdict(ConfoundSettings(), row_of(**changes))[1]
        assert "q < 0.001)" in reason
        assert "0.000" not in reason


def test_a_latent_without_an_association_gets_no_verdict_but_its_confounders_are_named(
    table, world
):
    free = table[~(table["concept_q"] < 0.05) & table["concept_auroc"].notna()]
    assert set(free["verdict"]) == {"not associated"}
    paddle = verdict_of(table, world, "paddle", "paddle")
    assert paddle["concept_q"] > 0.05
    assert paddle["discriminates"]
    assert "it discriminates paddle (AUROC 0.9" in paddle["reason"]
    assert set(table.loc[table["concept_q"] < 0.05, "verdict"]) <= set(JUDGED)


def judged_by_covariate(covariate, ill, kind="acquisition", scores=None):
    """Return the rows for a detector of the lesion and one of the covariate, a patient each."""
    rng = np.random.default_rng(0)
    cases = pd.DataFrame({
        "patient_id": range(len(ill)), "split": "test", "side": "L", "mass": ill.astype(int),
        "vendor": covariate, "paddle": np.arange(len(ill)) % 2,
    })  # fmt: skip
    scores = np.stack([ill, covariate if scores is None else scores], axis=1) + 0.1 * rng.normal(
        size=(len(ill), 2)
    )
    settings = ConfoundSettings(
        acquisition=("paddle",), anatomical=(), bootstrap_draws=20, permutation_draws=99
    )
    settings = settings.model_copy(
        update={kind: ("vendor", *(settings.acquisition if kind == "acquisition" else ()))}
    )
    latents = pd.DataFrame({
        "latent": range(2), "concept": "mass", "reason": "", "q": 0.001,
        "auroc": st.auroc(scores, ill),
    })  # fmt: skip
    parts = []
    for name in ("vendor", "paddle"):
        part = confounds.confounder_rows(settings, cases, scores, "mass", name)
        part[["concept_lift", "artefact_lift", "artefact_lift_low"]] = np.nan
        parts.append(part.assign(latent=range(2)))
    rows = confounds.judged(settings, pd.concat(parts, ignore_index=True), latents)
    return rows.assign(encoder="e", layer="head", sae="s", seed=0)


@pytest.mark.parametrize("others", [0, 9])  # Cramer's V 1.00 and 0.91
def test_a_latent_is_not_aligned_if_a_confounder_cannot_be_separated_from_the_concept(others):
    ill = np.arange(200) < 80
    vendor = ill.astype(int)
    vendor[-others or 200 :] = 1  # the vendor of all ill patients, and of a few others
    rows = judged_by_covariate(vendor, ill)
    tested = rows[rows["confounder"] == "vendor"]
    assert set(tested["verdict"]) == {"unresolved"}
    assert tested["reason"].iloc[0] == (
        f"vendor almost coincides with mass (Cramer's V {tested['association'].iloc[0]:.2f}, "
        "p < 0.001) and can't be held fixed: 0 levels of vendor "
        "have 10 patients with a positive image and 10 with a negative one; two are needed"
    )
    whole = overall(rows)
    assert set(whole["verdict"]) == {"unresolved"}
    assert set(whole["confounders"]) == {"vendor"}


def test_tissue_that_is_the_concept_itself_leaves_a_latent_aligned():
    ill = np.arange(200) < 80
    rows = judged_by_covariate(ill.astype(int), ill, kind="anatomical")
    assert set(rows.loc[rows["confounder"] == "vendor", "verdict"]) == {"insufficient"}
    assert set(overall(rows)["verdict"]) == {"concept-aligned"}


def test_one_scanner_of_most_patients_with_a_mass_cannot_be_separated_from_it():
    ill = np.arange(230) < 110
    vendor = (np.arange(230) < 98).astype(int)  # 12 patients with a mass have the other vendor
    rows = judged_by_covariate(vendor, ill)
    tested = rows[rows["confounder"] == "vendor"]
    assert tested["association"].iloc[0] == pytest.approx(0.9, abs=0.02)
    assert set(tested["verdict"]) == {"unresolved"}


@pytest.mark.parametrize("text", [False, True])
def test_rare_levels_are_tested_together_against_a_frequent_one(text):
    """A count of 0 to 5 is 0 in most images. Each other count has 5 patients without a mass."""
    ill = np.arange(240) < 120
    fires = np.concatenate([np.arange(120) < 55, np.arange(120) < 25])
    count = np.where(fires, 1 + np.arange(240) % 5, 0)
    covariate = pd.Series(count).map("{} clips".format) if text else count
    rows = judged_by_covariate(covariate, ill, scores=fires)
    tested = rows[rows["confounder"] == "vendor"].set_index("latent")
    assert set(tested["strata"]) == {2}
    assert tested.loc[1, "verdict"] == "confounded"
    assert tested.loc[1, "confounder_level"] == ("not 0 clips" if text else "not 0")
    assert tested.loc[1, "images"] == 240
    assert tested.loc[0, "verdict"] == "concept-aligned"


def test_a_rare_level_leaves_a_latent_aligned():
    ill = np.arange(200) < 80
    rows = judged_by_covariate((np.arange(200) < 9).astype(int), ill)
    tested = rows[rows["confounder"] == "vendor"].iloc[0]
    assert tested["verdict"] == "insufficient"
    assert tested["reason"].startswith("1 level of vendor has 10 patients")
    assert overall(rows)["verdict"].iloc[0] == "concept-aligned"


def test_one_latent_of_a_confounder_is_found_among_many_candidates():
    rng = np.random.default_rng(3)
    ill = np.arange(120) < 60
    drawn = rng.random((120, 60)) < np.where(ill, 0.7, 0.3)[:, None]
    names = tuple(f"c{i}" for i in range(60))
    settings = ConfoundSettings(
        acquisition=names, anatomical=(), bootstrap_draws=20, permutation_draws=99
    )
    cases = pd.DataFrame({
        "patient_id": range(120), "split": "test", "side": "L", "mass": ill.astype(int),
        **{name: drawn[:, i] for i, name in enumerate(names)},
    })  # fmt: skip
    scores = rng.normal(size=(120, 5)) + 0.5 * ill[:, None]
    scores[:, 0] = drawn[:, 0] + 0.01 * rng.normal(size=120)
    rows = []
    for name in ("c0", "c1"):
        part = confounds.confounder_rows(settings, cases, scores, "mass", name)
        rows.append(part["p"].to_numpy())
    family = np.ones((5, 60))
    family[:, :2] = np.stack(rows, axis=1)
    assert st.family_q(family)[0, 0] < 0.05


@pytest.mark.parametrize("seed", [0, pytest.param(range(1, 40), marks=pytest.mark.soak)])
def test_twenty_candidates_call_no_more_latents_than_one(seed):
    """Latents and twenty covariates are associated with the concept, but not with each other."""
    names = tuple(f"c{i}" for i in range(20))
    settings = ConfoundSettings(
        acquisition=names, anatomical=(), bootstrap_draws=20, permutation_draws=99
    )
    called = {1: [], 20: []}
    for number in np.ravel(seed):
        rng = np.random.default_rng(int(number))
        patient = np.repeat(np.arange(160), rng.integers(1, 5, 160))
        ill = rng.random(160) < 0.5
        drawn = rng.random((160, 20)) < np.where(ill, 0.65, 0.35)[:, None]
        cases = pd.DataFrame({
            "patient_id": patient, "split": "test", "side": "L",
            "mass": ill[patient].astype(int), **{f"c{i}": drawn[patient, i] for i in range(20)},
        })  # fmt: skip
        strength = rng.uniform(0.3, 1.0, 30)
        scores = rng.normal(size=(160, 30))[patient] + rng.normal(size=(len(patient), 30))
        scores += strength * ill[patient, None]
        latents = pd.DataFrame({
            "latent": range(30), "concept": "mass", "reason": "", "q": 0.001,
            "auroc": st.auroc(scores, ill[patient]),
        })  # fmt: skip
        for count, calls in called.items():
            parts = []
            for name in names[:count]:
                part = confounds.confounder_rows(settings, cases, scores, "mass", name)
                part = part.assign(latent=range(30))
                parts.append(part.assign(artefact_lift=0.0, artefact_lift_low=0.0, concept_lift=1))
            found = confounds.judged(settings, pd.concat(parts, ignore_index=True), latents)
            calls.append(found[found["verdict"].isin(SUSPECT)]["latent"].nunique() / 30)
    assert np.mean(called[20]) <= 0.05
    assert np.mean(called[1]) <= 0.05
