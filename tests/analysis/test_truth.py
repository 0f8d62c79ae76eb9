"""Ground truth from responses, and the shares of verdicts that agree with it."""

from __future__ import annotations

import pandas as pd
import pytest

from mammo_sae.analysis import truth
from mammo_sae.analysis.cases import Identity
from mammo_sae.analysis.settings import TruthSettings
from mammo_sae.stores.tables import read_table, write_table
from responding import write_responses

# Latent -> what it responds to, and its verdicts for marker, manufacturer and paddle.
LATENTS = {
    0: ({"mass": 2.0}, ("concept-aligned",) * 3),
    1: ({"mass": -1.0, "paddle": 0.8}, ("concept-aligned", "unresolved", "mixed")),
    2: ({"mass": 0.9, "marker": 0.19}, ("mixed", "concept-aligned", "concept-aligned")),
    3: ({"marker": -2.0, "vendor": 0.7}, ("confounded", "unresolved", "unresolved")),
    4: ({"vendor": 1.0}, ("unresolved",) * 3),
    5: ({"vendor": 0.6, "mass": 0.4}, ("unresolved", "confounded", "unresolved")),
    6: ({"marker": 1.2, "mass": 1.5}, ("mixed", "concept-aligned", "concept-aligned")),
    7: ({"marker": 0.3, "mass": 1.5}, ("confounded", "concept-aligned", "concept-aligned")),
    8: ({"marker": 0.3}, ("unresolved",) * 3),
    9: ({"suspicious_calcification": 1.0}, ("unresolved", "confounded", "unresolved")),
    10: ({"marker": 2.0}, ("not associated",) * 3),
}
CONFOUNDERS = ("marker", "manufacturer", "paddle")


@pytest.fixture
def tables(tmp_path):
    rows = [
        {"latent": latent, "concept": concept, "confounder": name, "concept_auroc": 0.7,
         "verdict": verdict if concept == "mass" else "confounded"}
        for latent, (_, verdicts) in LATENTS.items()
        for name, verdict in zip(CONFOUNDERS, verdicts, strict=True)
        for concept in ("mass", "suspicious_calcification")
    ]  # fmt: skip
    confounds = tmp_path / "confounds.parquet"
    write_table(pd.DataFrame(rows), confounds)
    responding = {latent: responses for latent, (responses, _) in LATENTS.items()}
    return write_responses(tmp_path / "responses.parquet", confounds, responding), confounds


@pytest.fixture
def summary(tables, tmp_path) -> pd.DataFrame:
    responses, confounds = tables
    truth.run(
        TruthSettings(),
        identity=Identity("a", "head", "topk", 0),
        responses=responses,
        confounds=confounds,
        component="mass",
        output=tmp_path / "truth.parquet",
    )
    return read_table(tmp_path / "truth.parquet").set_index(["confounder", "measure"])


def test_the_truth_of_a_latent_is_what_it_responds_to(tables):
    responses, confounds = (read_table(path) for path in tables)
    found = truth.ground_truth(TruthSettings(), responses, confounds, "mass")
    assert dict(zip(found["latent"], found["truth"], strict=True)) == {
        0: "clean", 1: "clean", 2: "clean", 3: "marker", 4: "manufacturer", 5: "manufacturer",
        6: "both", 7: "unclear", 8: "unclear", 9: "neither",
    }  # fmt: skip


def test_a_response_whose_interval_contains_0_counts_as_none(tables):
    responses, confounds = (read_table(path) for path in tables)
    responses.loc[responses["latent"] == 3, "response_low"] = -3.0
    responses.loc[responses["latent"] == 3, "response_high"] = 3.0
    found = truth.ground_truth(TruthSettings(), responses, confounds, "mass")
    assert found.set_index("latent").loc[3, "truth"] == "neither"


def test_the_other_finding_is_scored_for_its_own_concept(tables):
    responses, confounds = (read_table(path) for path in tables)
    settings = TruthSettings(concept="suspicious_calcification")
    found = truth.ground_truth(settings, responses, confounds, "suspicious_calcification")
    assert found.set_index("latent").loc[[0, 9], "truth"].tolist() == ["neither", "clean"]
    assert found["called_marker"].all()


@pytest.mark.parametrize(
    ("confounder", "measure", "latents", "hits"),
    [
        ("marker", "recall", 1, 1),  # 3
        ("manufacturer", "recall", 2, 1),  # 4 and 5
        ("any", "recall", 3, 2),
        ("marker", "precision", 4, 3),  # 2 responds by less than 0.2, 7 by 0.3
        ("manufacturer", "precision", 2, 1),  # 9 does not respond to the vendor
        ("any", "precision", 6, 4),
        ("marker", "false_positive_rate", 3, 1),  # 2 of 0, 1 and 2
        ("manufacturer", "false_positive_rate", 3, 0),
        ("any", "false_positive_rate", 3, 1),
        ("paddle", "false_positive_rate", 9, 0),  # all but 1, which responds to the paddle
        ("any", "both_called", 1, 1),  # 6
    ],
)
def test_each_share_counts_its_latents(summary, confounder, measure, latents, hits):
    row = summary.loc[(confounder, measure)]
    assert row[["latents", "hits"]].tolist() == [latents, hits]
    assert row["value"] == hits / latents
    assert row["low"] <= row["value"] <= row["high"]
    assert row["associated_latents"] == 10


def test_a_control_has_a_false_positive_rate_and_no_recall(summary):
    assert summary.loc["paddle", "role"].tolist() == ["control"]


def test_truth_gives_a_reason_if_no_latent_is_associated_with_the_concept(tables, tmp_path):
    responses, confounds = tables
    table = read_table(confounds)
    write_table(table.assign(verdict="not associated"), confounds)
    truth.run(
        TruthSettings(),
        identity=Identity("a", "head", "topk", 0),
        responses=responses,
        confounds=confounds,
        component="mass",
        output=tmp_path / "truth.parquet",
    )
    summary = read_table(tmp_path / "truth.parquet")
    assert summary["value"].isna().all()
    assert (summary[["latents", "hits"]] == 0).all(axis=None)
    assert summary["reason"].str.startswith("no associated latent ").all()


def test_a_weak_response_above_the_least_response_is_refused():
    with pytest.raises(ValueError, match="weak_response is more than least_response"):
        TruthSettings(weak_response=0.6)


@pytest.mark.parametrize("missing", [True, False])
def test_an_artefact_for_which_no_latent_was_tested_has_a_reason_and_no_share(tables, missing):
    responses, confounds = (read_table(path) for path in tables)
    mine = confounds["confounder"] == "manufacturer"
    if missing:
        confounds = confounds[~mine]
    else:
        confounds.loc[mine & (confounds["verdict"] != "not associated"), "verdict"] = "insufficient"
    found = truth.ground_truth(TruthSettings(), responses, confounds, "mass")
    table = truth.summary(TruthSettings(), found).set_index(["confounder", "measure"])
    for name in ("manufacturer", "any"):
        rows = table.loc[name]
        assert rows[["value", "low", "high"]].isna().all(axis=None)
        assert set(rows["reason"]) == {
            "no latent was tested for manufacturer; see the table confounds"
        }
    assert table.loc[("marker", "recall"), "value"] == 1.0
    assert table.loc["paddle", "reason"].tolist() == [""]
