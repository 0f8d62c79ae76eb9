from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from mammo_sae.encoders import evaluate_encoder
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.encoders.settings import EvaluationSettings
from mammo_sae.errors import InputError
from mammo_sae.grids import LayerGrid
from mammo_sae.stores.embeddings import create_embedding_store
from mammo_sae.stores.tables import write_table

N = 120


@pytest.fixture
def study(tmp_path):
    """Features whose channel 0 depends on the concept, a head that uses it, and the cohort."""
    rng = np.random.default_rng(0)
    labels = (np.arange(N) // 2) % 2
    values = rng.normal(size=(N, 3)).astype(np.float16)
    values[:, 0] += labels
    ids = [f"image{i:03d}" for i in range(N)]
    with create_embedding_store(
        tmp_path / "0",
        tmp_path / "0.json",
        image_ids=ids,
        grids=[LayerGrid("pooled", 3, 1, 1, 32, 0.0, 0.0, 32)],
    ) as writer:
        writer.write({"pooled": values.reshape(N, 1, 1, 3)})
    save_head(
        Head(np.array([[2.0, 0, 0]], np.float32), np.array([0.5], np.float32), ("mass",)),
        tmp_path / "head.safetensors",
        tmp_path / "head.json",
    )
    cohort = pd.DataFrame(
        {
            "image_id": ids,
            "patient_id": [f"p{i // 2}" for i in range(N)],
            "split": ["test"] * 100 + ["external"] * 20,
            "mass": pd.array(labels, dtype="Int8"),
        }
    )
    cohort.loc[:3, "mass"] = pd.NA
    cohort.loc[100:, "mass"] = 0
    write_table(cohort, tmp_path / "images.parquet")
    return tmp_path, values, cohort


def run(directory):
    evaluate_encoder.run(
        EvaluationSettings(bootstrap_draws=200),
        encoder_name="pretrained",
        images=directory / "images.parquet",
        embeddings=[directory / "0.json"],
        head=directory,
        predictions=directory / "predictions.parquet",
        scores=directory / "encoders.parquet",
    )
    return (
        pd.read_parquet(directory / "predictions.parquet"),
        pd.read_parquet(directory / "encoders.parquet").set_index("split"),
    )


def test_every_image_has_its_logit(study):
    directory, values, cohort = study
    predictions, _ = run(directory)
    assert predictions["image_id"].tolist() == cohort["image_id"].tolist()
    np.testing.assert_allclose(predictions["logit"], 2 * values[:, 0].astype(float) + 0.5)


def test_labelled_images_of_a_split_are_scored_with_their_interval(study):
    directory, values, cohort = study
    _, table = run(directory)
    row, scored = table.loc["test"], slice(4, 100)
    truth, score = cohort["mass"][scored].to_numpy(int), values[scored, 0].astype(float)
    assert (row["images"], row["patients"], row["positives"]) == (96, 48, truth.sum())
    assert row["auroc"] == pytest.approx(roc_auc_score(truth, score))
    assert row["auprc"] == pytest.approx(average_precision_score(truth, score))
    for metric in ("auroc", "auprc"):
        assert row[f"{metric}_low"] < row[metric] < row[f"{metric}_high"]
    assert row["reason"] == ""


def test_a_value_that_cannot_be_estimated_is_missing_with_its_reason(study):
    directory, _, _ = study
    _, table = run(directory)
    row = table.loc["external"]
    assert np.isnan(row[["auroc", "auroc_low", "auprc", "auprc_high"]].astype(float)).all()
    assert row["reason"].startswith("0 patients with a positive image")


def test_an_image_that_the_cohort_does_not_know_is_an_error(study):
    directory, _, cohort = study
    write_table(cohort.iloc[1:], directory / "images.parquet")
    with pytest.raises(InputError, match=r"images\.parquet has no row for image image000"):
        run(directory)


def test_embeddings_that_are_rebuilt_for_the_cohort_as_advised_are_scored(study):
    directory, values, cohort = study
    write_table(cohort.iloc[1:], directory / "images.parquet")
    with pytest.raises(InputError, match=r"rebuild the embeddings$"):
        run(directory)
    with create_embedding_store(
        directory / "0",
        directory / "0.json",
        image_ids=cohort["image_id"].iloc[1:].to_list(),
        grids=[LayerGrid("pooled", 3, 1, 1, 32, 0.0, 0.0, 32)],
    ) as writer:
        writer.write({"pooled": values[1:].reshape(N - 1, 1, 1, 3)})
    predictions, _ = run(directory)
    np.testing.assert_allclose(predictions["logit"], 2 * values[1:, 0] + 0.5, rtol=1e-3)
