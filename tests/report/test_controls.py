"""The comparison of trained SAEs with controls, and the sentences about it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae.report import comparison, controls, summary
from mammo_sae.report.controls import EQUAL, LOSES, UNKNOWN, WINS, Value
from mammo_sae.stores.tables import read_table, write_table


def _of(sae, seed=0, encoder="finetuned", layer="head"):
    return {"encoder": encoder, "layer": layer, "sae": sae, "seed": seed}


def _score(value, half=0.02, column="auroc"):
    return {column: value, f"{column}_low": value - half, f"{column}_high": value + half}


def _probes(sae, sparse, dense, **where):
    start = {**_of(sae, **where), "kind": "concept", "target": "mass", "level": "1"}
    start |= {"features": "codes", "split": "test", "reason": ""}
    return [
        {**start, "probe": "sparse", "k": 1, **_score(sparse)},
        {**start, "probe": "sparse", "k": 5, **_score(sparse)},
        {**start, "probe": "sparse", "k": 1, **_score(0.99), "split": "training"},
        {**start, "probe": "l2", "k": pd.NA, **_score(dense)},
        {**start, "probe": "l2", "k": pd.NA, **_score(0.99), "features": "embedding"},
        {**start, "probe": "l2", "k": pd.NA, **_score(0.99), "target": "marker", "kind": "x"},
    ]


def _latents(sae, best, **where):
    start = {**_of(sae, **where), "concept": "mass", "reason": ""}
    return [
        {**start, "latent": 7, "rank_auroc": 1, **_score(best)},
        {**start, "latent": 8, "rank_auroc": 2, **_score(0.99)},
    ]


def _alignment(sae, lift, iou):
    start = {**_of(sae), "concept": "mass", "selection": "ranked", "reason": ""}
    iou_column = "pooled_iou"
    return [
        {**start, "latent": 7, **_score(lift, 0.5, "energy_lift"), **_score(iou, 0.01, iou_column)},
        {**start, "latent": 8, **_score(99.0, 0.5, "energy_lift"), **_score(1, 0, iou_column)},
    ]


def _verdicts(sae, counts, on):
    rows = []
    for word, number in counts.items():
        rows += [{**_of(sae), "concept": "mass", "verdict": word, "auroc": 0.7}] * number
    for rank, row in enumerate(rows, start=1):
        where = "on the lesion" if rank <= on else "off the lesion"
        rows[rank - 1] = {**row, "latent": rank, "rank_auroc": rank, "where": where}
    return rows


def _interventions(sae, on, off):
    start = {**_of(sae), "concept": "mass", "split": "test", "ranking": "auroc", "reason": ""}
    start |= {"selection": "ranked", "splice": "spliced"}
    rows = []
    for k in (0, 5, 10, 100):
        rows += [{**start, "mode": "on", "k": k, **_score(on if k == 10 else 0.5)}]
        rows += [{**start, "mode": "off", "k": k, **_score(off if k == 10 else 0.5)}]
    return [*rows, {**rows[4], "selection": "matched", **_score(0.1)}]


@pytest.fixture
def tables():
    judged = {"concept-aligned": 20, "confounded": 5, "not associated": 10}
    reverse = {"concept-aligned": 2, "confounded": 22, "not associated": 5}
    return {
        "probes": _probes("topk", 0.9, 0.95) + _probes("pca", 0.8, 0.96),
        "latents": _latents("topk", 0.85) + _latents("pca", 0.95),
        "alignment": _alignment("topk", 6.0, 0.2) + _alignment("pca", 2.0, 0.19),
        "verdicts": _verdicts("topk", judged, 9) + _verdicts("pca", reverse, 0),
        "interventions": _interventions("topk", 0.9, 0.6) + _interventions("pca", 0.7, 0.8),
    }


def _frames(tables):
    frames = {name: pd.DataFrame(rows) for name, rows in tables.items()}
    frames["probes"] = frames["probes"].astype({"k": "Int32"})
    return frames


def _compared(tables, names=("head/pca",)):
    return controls.compared(_frames(tables), names)


def test_each_measure_is_compared_with_that_of_the_control(tables):
    table = _compared(tables)
    found = table[table["k"].isna() | table["k"].isin([1, 10])].set_index("measure")
    assert dict(found["outcome"]) == {
        "auroc_sparse": WINS,
        "auroc_l2": EQUAL,
        "auroc_best": LOSES,
        "energy_lift": WINS,
        "pooled_iou": EQUAL,
        "share_on_lesion": WINS,
        "share_aligned": WINS,
        "share_confounded": WINS,  # fewer are better
        "auroc_on": WINS,
        "auroc_off": WINS,  # a lower one is better
    }
    best = found.loc["auroc_best"]
    assert best["difference"] == pytest.approx(-0.1)
    half = np.hypot(0.02, 0.02)
    assert best["difference_low"] == pytest.approx(-0.1 - half)
    assert best["difference_high"] == pytest.approx(-0.1 + half)
    assert found.loc["share_aligned", "trained_value"] == 20 / 25
    assert found.loc["share_confounded", "control_value"] == 22 / 24
    assert found.loc["share_on_lesion", "trained_value"] == 9 / 10
    assert found.loc["energy_lift", "trained_value"] == 6.0
    assert set(table.loc[table["measure"] == "auroc_on", "k"]) == {5, 10, 100}
    assert "training" not in set(table["split"])


@pytest.mark.parametrize(
    ("trained", "control", "better", "outcome"),
    [
        ((0.9, 0.88, 0.92), (0.8, 0.78, 0.82), "higher", WINS),
        ((0.9, 0.88, 0.92), (0.8, 0.78, 0.82), "lower", LOSES),
        ((0.8, 0.78, 0.82), (0.9, 0.88, 0.92), "higher", LOSES),
        ((0.8, 0.78, 0.82), (0.9, 0.88, 0.92), "lower", WINS),
        ((0.9, 0.85, 0.95), (0.87, 0.82, 0.92), "higher", EQUAL),
        ((0.9, 0.85, 0.95), (0.9, 0.85, 0.95), "lower", EQUAL),
        # The intervals overlap, and that of the difference lies above 0.
        ((0.90, 0.86, 0.94), (0.83, 0.79, 0.87), "higher", WINS),
    ],
)
def test_the_outcome_follows_from_the_interval_of_the_difference(trained, control, better, outcome):
    assert controls.outcome_of(Value(*trained), Value(*control), better)[0] == outcome


def test_a_value_without_an_interval_is_not_compared_and_the_reason_is_given():
    known, unknown = Value(0.8, 0.7, 0.9), Value(reason="3 positive images")
    outcome, *_, reason = controls.outcome_of(known, unknown, "higher")
    assert (outcome, reason) == (UNKNOWN, "control: 3 positive images")
    outcome, *_, reason = controls.outcome_of(Value(0.8), known, "higher")
    assert (outcome, reason) == (UNKNOWN, "trained: no interval")


def test_a_missing_value_gives_a_row_with_its_reason(tables):
    tables["verdicts"] = _verdicts("topk", {"concept-aligned": 3}, 0)
    tables["alignment"] = _alignment("pca", 2.0, 0.19)
    table = _compared(tables).set_index("measure")
    assert table.loc["share_aligned", "outcome"] == UNKNOWN
    assert table.loc["share_aligned", "reason"] == (
        "control: no tested latent is associated with the concept"
    )
    assert table.loc["energy_lift", "reason"] == (
        "trained: the location of the best latent was not tested"
    )


def test_only_saes_of_the_same_encoder_and_layer_are_compared_and_only_first_seeds(tables):
    tables["latents"] += _latents("topk", 0.1, seed=1)
    tables["latents"] += _latents("topk", 0.6, layer="blocks.10")
    tables["latents"] += _latents("random", 0.6, layer="blocks.10", encoder="pretrained")
    table = _compared(tables, ("head/pca", "blocks.10/random"))
    assert set(table["control"]) == {"pca"}
    assert set(table["layer"]) == {"head"}
    assert set(table.loc[table["measure"] == "auroc_best", "trained_value"]) == {0.85}


def test_a_control_without_a_trained_sae_gives_an_empty_table_with_all_columns(tables):
    table = _compared(tables, ("head/pca", "head/topk"))
    assert list(table.columns) == controls.COLUMNS
    assert table.empty
    assert comparison.paragraphs(table, "test") == []


def test_the_sentences_say_where_the_trained_sae_wins_and_where_not(tables):
    (text,) = comparison.paragraphs(_compared(tables), "test")
    assert text.startswith(
        "Layer head of finetuned: In 10 comparisons with pca, the trained SAE topk wins in 7, does "
        "not differ in 2 and loses in 1. "
    )
    assert (
        "It wins in probing: AUROC of a probe on 1 latent, mass: 0.90 against 0.80 (pca)." in text
    )
    assert "It loses in single latents: AUROC of the best latent, mass: 0.85 against 0.95" in text
    assert "It does not differ in probing: AUROC of a probe on all latents, mass: 0.95" in text
    assert "the prediction without the best 10 latents (less is better), mass: 0.60" in text
    assert "can't be compared" not in text
    assert "probe on 5 latents" not in text


def test_the_sentences_name_each_control_with_its_outcome(tables):
    tables["probes"] += _probes("channels", 0.9, 0.95)
    tables["latents"] += _latents("channels", 0.5)
    (text,) = comparison.paragraphs(_compared(tables, ("head/pca", "head/channels")), "test")
    assert "comparisons with channels and pca" in text
    assert (
        "does not differ in probing: AUROC of a probe on 1 latent, mass: 0.90 against 0.90 (ch"
        in text
    )
    assert (
        "AUROC of a probe on all latents, mass: 0.95 against 0.95 (channels) and 0.96 (pca)" in text
    )
    assert "are not estimable" in text
    assert (
        "It can't be compared in confounders: share of associated latents that are the finding "
        "itself, mass (control: no tested latent is associated with the concept)"
    ) in text  # fmt: skip


def test_another_split_is_described_if_the_table_lacks_the_split(tables):
    for row in tables["interventions"]:
        row["split"] = "external"
    shown = comparison.described(_compared(tables), "test")
    assert set(shown.loc[shown["analysis"] == "interventions", "split"]) == {"external"}
    assert set(shown.loc[shown["analysis"] == "probing", "split"]) == {"test"}


def test_the_first_page_has_the_paragraph(tables, whole, tmp_path):
    for name, frame in _frames(tables).items():
        write_table(frame, tmp_path / f"{name}.parquet")
    controls.run(
        **{name: tmp_path / f"{name}.parquet" for name in tables},
        control_saes=["head/pca"],
        csv=tmp_path / "controls.csv",
        parquet=tmp_path / "controls.parquet",
    )
    empty = pd.DataFrame(columns=["encoder", "layer", "sae", "seed", "concept", "latent", "verdict",
                                  "auroc", "rank_auroc", "where"])  # fmt: skip
    write_table(empty, tmp_path / "none.parquet")
    summary.run(
        encoders=whole / "encoders.parquet",
        latents=whole / "latents.parquet",
        verdicts=tmp_path / "none.parquet",
        controls=tmp_path / "controls.parquet",
        split="test",
        output=tmp_path / "summary.html",
    )
    text = (tmp_path / "summary.html").read_text()
    assert "the trained SAE topk wins in 7, does not differ in 2 and loses in 1" in text
    assert len(read_table(tmp_path / "controls.csv")) == len(
        read_table(tmp_path / "controls.parquet")
    )
