from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mammo_sae.config import load_config, read_config
from mammo_sae.errors import InputError
from mammo_sae.report import published
from mammo_sae.report.settings import PublishedSettings
from mammo_sae.stores.tables import write_table

CONCEPTS = ("mass", "suspicious_calcification")
PROJECT = Path(__file__).parents[2]
SETTINGS = PublishedSettings(
    sae="theirs",
    pretrained_suspicious_calcification="probe",
    finetuned_suspicious_calcification="tuned",
)


def write_tables(folder: Path, labels: str = "finding") -> dict[str, Path]:
    """Write the tables of a run with two encoders, one SAE and 20 latents."""
    keys = {"layer": "head", "sae": "theirs", "seed": 0, "labels": labels}
    scores, edits, latents = [], [], []
    for place, encoder in enumerate(("probe", "tuned")):
        for concept in CONCEPTS:
            for split, count in (("training", 16391), ("test", 4095)):
                positives = {"training": 428, "test": 115}[split]
                row = {"encoder": encoder, "concept": concept, "split": split, "labels": labels}
                row |= {"scored": count, "positives": positives, "reason": ""}
                scores.append(row | {"auroc": 0.9 + place / 50, "auroc_low": 0.8, "auroc_high": 1})
            for k in (0, 1, 5, 10, 50, 100, 16384):
                row = {
                    "encoder": encoder,
                    "concept": concept,
                    "split": "test",
                    "mode": "on",
                    **keys,
                }
                row |= {"ranking": "both_ends", "splice": "spliced", "k": k, "reason": ""}
                row |= {"auroc": 0.5 + k / 1e5, "auroc_low": 0.4, "auroc_high": 0.9}
                edits.append(row | {"auprc": 115 / 4095, "auprc_low": 0.02, "auprc_high": 0.04})
            for latent in range(20):
                row = {"encoder": encoder, "concept": concept, "latent": latent, **keys}
                row["mean_positive"] = float(latent < 18)
                row["mean_difference"] = float(latent < 7 + place) - float(latent >= 9)
                latents.append(row | {"rank_mean_difference": latent + 1})
    paths = {}
    for name, rows in (("encoders", scores), ("interventions", edits), ("latents", latents)):
        paths[name] = folder / f"{name}.parquet"
        write_table(pd.DataFrame(rows), paths[name])
    return paths


def table(folder: Path, settings: PublishedSettings = SETTINGS, **options) -> pd.DataFrame:
    paths = write_tables(folder, **options)
    out = {"csv": folder / "published.csv", "parquet": folder / "published.parquet"}
    published.run(settings, **paths, **out)
    return pd.read_parquet(out["parquet"])


def test_every_published_number_has_a_row_even_if_the_model_is_missing(tmp_path):
    found = table(tmp_path)
    assert len(found) == 2 * 5 + 4 * 2 + 6 + 1 + 2 + 1
    assert found["published"].notna().all()
    assert (found["ours"].notna() ^ (found["reason"] != "")).all()
    mass = found[found["concept"] == "mass"]
    assert mass["ours"].isna().all()
    assert mass["reason"].str.contains(r"report\.published\.(?:pretrained|finetuned)_mass").all()


def test_ours_the_interval_and_the_difference_come_from_the_runs_tables(tmp_path):
    found = table(tmp_path).set_index(["figure", "model", "concept"]).sort_index()

    def one(*keys: str) -> pd.Series:
        return found.loc[[keys]].iloc[0]

    calcification = "suspicious_calcification"
    row = one("AUROC without SAE", "finetuned", calcification)
    assert row[["published", "ours", "low", "high"]].tolist() == [0.979, 0.92, 0.8, 1.0]
    assert row["difference"] == pytest.approx(0.92 - 0.979)
    row = one("AUROC with SAE", "pretrained", calcification)
    assert row["ours"] == pytest.approx(0.5 + 16384 / 1e5)
    kept = found.loc[("AUROC, top k of each class kept", "finetuned", calcification)]
    assert kept.set_index("k")["published"].to_dict() == {
        0: 0.5, 1: 0.668, 5: 0.911, 10: 0.964, 50: 0.978, 100: 0.978
    }  # fmt: skip
    assert kept.set_index("k")["ours"].to_dict() == pytest.approx(
        {k: 0.5 + k / 1e5 for k in (0, 1, 5, 10, 50, 100)}
    )
    row = one("AUPRC without latents", "finetuned", calcification)
    assert abs(row["difference"]) < 1e-6
    row = one("weight of positives in training", "", calcification)
    assert abs(row["difference"]) < 5e-5
    # For the two classes, 7 and 8 latents lie above the mean of all images, and 11 below it.
    for end, ours, theirs in (("fewest", 7, 31), ("most", 11, 797)):
        row = one(f"latents whose class mean is above that of all images, {end}", "", "")
        assert row[["ours", "published"]].tolist() == [ours, theirs]
        assert row["differs"] == "ours without pretrained_mass, finetuned_mass"


def test_labels_by_image_are_named_as_a_difference_on_every_row_that_scores(tmp_path):
    scored = "suspicious_calcification"
    by_finding = table(tmp_path)
    assert not by_finding["differs"].str.contains("labels").any()
    by_image = table(tmp_path, labels="image")
    rows = by_image[(by_image["concept"] == scored) & by_image["ours"].notna()]
    assert rows["differs"].str.contains("published by finding row, ours by image").all()


def test_top_latents_of_both_concepts_are_compared_where_both_models_are_there(tmp_path):
    settings = SETTINGS.model_copy(update={"finetuned_mass": "tuned"})
    found = table(tmp_path, settings).set_index("figure")
    assert found.loc["top 10 latents shared by both concepts", "ours"] == 10


def test_reproduce_trains_neither_an_encoder_nor_an_sae():
    config = read_config([PROJECT / "config" / "reproduce.yaml"])
    assert {encoder.kind for encoder in config.encoders.values()} == {"pretrained"}
    assert {sae.variant.name for sae in config.saes.values()} == {"published"}
    assert config.cohort.labels == "finding"
    assert set(published.TOP_K) <= set(config.interventions.top_k)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sae": "nowhere"}, r"published\.sae: 'nowhere' is no SAE here"),
        ({"finetuned_mass": "nobody"}, r"published\.finetuned_mass: 'nobody' is no encoder"),
    ],
)
def test_a_name_that_the_run_lacks_is_refused(change, complaint):
    own = {"sae": "topk", **change}
    with pytest.raises(InputError, match=complaint):
        load_config({"report": {"published": own}}, "test")
