"""Labels by finding: every row of the source's table is scored, and patients are resampled."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from mammo_clip_form import write_mammo_clip_form
from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis.columns import covariates_of
from mammo_sae.cohorts import build
from mammo_sae.cohorts.labels import labelling, rows_of
from mammo_sae.cohorts.settings import MammoClipCohort, VindrCohort
from mammo_sae.config import load_config
from mammo_sae.errors import InputError
from mammo_sae.phantom import archive
from mammo_sae.phantom.settings import PatientCounts, PhantomSettings

# Published numbers of rows and positive rows in the training and test split of VinDr-Mammo.
ROWS = {"training": 16391, "test": 4095}
IMAGES = {"training": 16000, "test": 4000}
POSITIVE = {
    "suspicious_calcification": {"training": 428, "test": 115},
    "mass": {"training": 989, "test": 237},
}


@pytest.fixture(scope="module")
def published() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A made-up cohort with the published counts, by image, and its table of findings."""
    rng = np.random.default_rng(0)
    parts, images = [], []
    for split, count in ROWS.items():
        names = [f"{split}{i}" for i in range(IMAGES[split])]
        extra = rng.choice(names[:300], count - len(names))
        rows = pd.DataFrame({"image_id": [*names, *extra], "split": split})
        for concept, positive in POSITIVE.items():
            rows[concept] = 0
            # Most images have several rows, so that many contain contradictions.
            first = rng.permutation(np.flatnonzero(rows["image_id"].isin(extra)))
            others = rng.permutation(np.setdiff1d(np.arange(count), first))
            rows.loc[np.append(first, others)[: positive[split]], concept] = 1
        parts.append(rows)
        images.append(pd.DataFrame({"image_id": names, "split": split}))
    findings = pd.concat(parts, ignore_index=True)
    table = pd.concat(images, ignore_index=True).sample(frac=1, random_state=1, ignore_index=True)
    for concept in POSITIVE:
        grouped = findings.groupby("image_id")[concept]
        for name, values in (
            (concept, grouped.max()),
            (f"{concept}_rows", grouped.count()),
            (f"{concept}_positive_rows", grouped.sum()),
        ):
            table[name] = values.reindex(table["image_id"]).to_numpy()
    table["patient_id"] = [f"p{i // 4}" for i in range(len(table))]
    return table, findings


def test_rows_and_weights_are_the_published_ones(published):
    table, _ = published
    training = table[table["split"] == "training"]
    positions, labels = rows_of(training, list(POSITIVE))
    assert len(positions) == 16391
    weights = (labels == 0).sum(axis=0) / (labels == 1).sum(axis=0)
    np.testing.assert_allclose(weights, [37.2967, 15.5733], atol=5e-5)
    for concept, counts in POSITIVE.items():
        for split in ROWS:
            rows = case.labelled(table, concept, split)
            assert len(rows) == ROWS[split]
            assert case.labels(table, concept, rows).sum() == counts[split]


def test_an_image_once_has_the_label_of_any_of_its_rows(published):
    table, findings = published
    once = case.labelled_images(table, "mass", "test")
    assert len(once) == 4000
    any_row = findings.groupby("image_id")["mass"].max()
    expected = any_row.reindex(table["image_id"].iloc[once]).to_numpy() == 1
    np.testing.assert_array_equal(case.labels(table, "mass", once), expected)


@pytest.mark.parametrize("concept", list(POSITIVE))
def test_scores_by_finding_equal_scikit_learn_on_the_rows_themselves(published, concept):
    table, findings = published
    rng = np.random.default_rng(3)
    score = pd.Series(np.round(rng.normal(size=len(table)) + table[concept] - 1, 1))
    rows = case.labelled(table, concept, "test")
    truth = case.labels(table, concept, rows)
    by_row = findings[findings["split"] == "test"]
    theirs = score.set_axis(table["image_id"]).reindex(by_row["image_id"]).to_numpy()
    labels, called = by_row[concept].to_numpy(), theirs > 0
    ours = score.to_numpy()[rows]
    assert st.auroc(ours, truth) == pytest.approx(roc_auc_score(labels, theirs), abs=1e-12)
    assert st.auprc(ours, truth) == pytest.approx(average_precision_score(labels, theirs))
    expected = (f(labels, called) for f in (precision_score, recall_score, f1_score))
    assert st.precision_recall_f1(ours, truth) == pytest.approx(tuple(expected))


def test_without_latents_the_auprc_is_the_published_share_of_positive_rows(published):
    table, _ = published
    rows = case.labelled(table, "suspicious_calcification", "test")
    truth = case.labels(table, "suspicious_calcification", rows)
    assert st.auprc(np.zeros(len(rows)), truth) == pytest.approx(115 / 4095)
    assert round(115 / 4095, 6) == 0.028083


def test_patients_are_drawn_with_all_their_rows(published):
    table, _ = published
    rows = case.labelled(table, "mass", "test")
    patients = table["patient_id"].to_numpy()[rows]
    [weights] = st.PatientDraws(patients, 20, 0).weights()
    for _, members in pd.Series(range(len(rows))).groupby(patients):
        assert (weights[members] == weights[members.iloc[0]]).all()


def test_the_columns_that_count_rows_are_no_covariates(published):
    table, _ = published
    assert covariates_of(table, list(POSITIVE)) == []
    assert labelling(table, list(POSITIVE)) == "finding"
    assert labelling(table[["image_id", *POSITIVE]], list(POSITIVE)) == "image"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same phantom images with VinDr-Mammo's tables and in Mammo-CLIP's layout."""
    vindr = tmp_path_factory.mktemp("phantom") / "test"
    settings = PhantomSettings(
        height=260, width=170, patients=PatientCounts(training=1, test=6, external=1)
    )
    archive.run(settings.part("test"), vindr, vindr.with_name("test.json"))
    findings = pd.read_csv(vindr / "finding_annotations.csv")
    # A second finding of another category, so that rows contradict each other.
    more = findings[findings["finding_categories"].str.contains("Mass")].iloc[:2]
    other = more.assign(finding_categories="['Asymmetry']")
    pd.concat([findings, other]).to_csv(vindr / "finding_annotations.csv", index=False)
    png = tmp_path_factory.mktemp("png")
    write_mammo_clip_form(vindr, png, height=95, width=57)
    return vindr, png


def test_both_forms_of_vindr_count_the_rows_of_their_table(folders, tmp_path):
    vindr, png = folders
    findings = pd.read_csv(vindr / "finding_annotations.csv")
    tables = {}
    for kind, folder, settings in (
        ("vindr", vindr, VindrCohort(source=str(vindr), labels="finding")),
        ("mammo_clip", png, MammoClipCohort(source=str(png), labels="finding", covariates={})),
    ):
        out = tmp_path / kind
        build.run(
            settings, [folder], out / "images.parquet", out / "findings.parquet", out / "s.json"
        )
        tables[kind] = pd.read_parquet(out / "images.parquet")
    for table in tables.values():
        assert table["mass_rows"].sum() == len(findings)
        positive = findings["finding_categories"].str.contains("'Mass'").sum()
        assert table["mass_positive_rows"].sum() == positive
        assert (table["mass_rows"] > table["mass_positive_rows"]).sum() > 0
    columns = ["image_id", "mass_rows", "mass_positive_rows", "suspicious_calcification_rows"]
    pd.testing.assert_frame_equal(
        tables["vindr"][columns], tables["mammo_clip"][columns], check_dtype=False
    )


def test_a_patient_has_one_label_so_units_and_labels_by_finding_exclude_each_other():
    content = {
        "cohort": {"kind": "vindr", "source": "x", "labels": "finding"},
        "latents": {"unit": "patient"},
    }
    with pytest.raises(InputError, match=r"latents\.unit: a patient has one label"):
        load_config(content, "test")


def test_a_concept_named_like_the_count_of_another_is_refused():
    cohort = {"kind": "vindr", "source": "x", "labels": "finding"}
    cohort["concepts"] = {"mass": "Mass", "mass_rows": "Asymmetry"}
    with pytest.raises(InputError, match=r"mass_rows is the column that counts the rows of mass"):
        load_config({"cohort": cohort}, "test")
