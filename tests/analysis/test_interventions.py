from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from copied import copied
from mammo_sae.analysis import (
    edits,
    effects,
    interventions,
    latents,
    linear,
    mean_codes,
    sweep,
)
from mammo_sae.analysis.settings import EffectSettings, InterventionSettings, LatentSettings
from mammo_sae.analysis.thresholds import Thresholds
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.errors import InputError
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores import codes
from mammo_sae.stores.tables import read_table, write_table

from_numpy = torch.from_numpy
SETTINGS = InterventionSettings(
    top_k=(0, 1, 2, 5, 1000),
    bootstrap_draws=50,
    random_sets=4,
    rankings=("class_mean", "auroc"),
    splices=("spliced", "error_preserving", "mean_ablated"),
)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A head that reads the lesion detector's atom, an SAE that misses part of the embedding."""
    root = tmp_path_factory.mktemp("interventions")
    rng = np.random.default_rng(5)
    h, d = world.dense.shape[-1], 4
    decoder = rng.normal(size=(h, d)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    bias = rng.normal(size=d).astype(np.float32)
    sae = SparseAutoencoder(
        from_numpy(decoder.copy()), torch.zeros(h), from_numpy(decoder), from_numpy(bias), k=h
    )
    sae.save(root / "sae.safetensors", root / "sae.json")
    weight = np.stack([decoder[world.latent("clean")], rng.normal(size=d).astype(np.float32)])
    head = Head(weight, np.array([0.3, -0.2], np.float32), ("mass", "suspicious_calcification"))
    (root / "head").mkdir()
    save_head(head, root / "head" / "head.safetensors", root / "head" / "head.json")
    error = rng.normal(size=(len(world.table), 12, 8, d)).astype(np.float32)
    embeddings = world.dense @ decoder + bias + error
    logits = head.logits(embeddings.mean(axis=(1, 2)))
    predictions = pd.concat(
        pd.DataFrame(
            {"image_id": world.table["image_id"], "concept": concept, "logit": logits[:, i]}
        )
        for i, concept in enumerate(head.concepts)
    )
    write_table(predictions, root / "predictions.parquet")
    common = {"identity": world.identity, "images": world.images, "codes": world.codes}
    latents.run(
        LatentSettings(bootstrap_draws=20, permutation_draws=99),
        concepts=["mass"],
        output=root / "latents.parquet",
        **common,
    )
    arguments = {
        **common,
        "sae": root / "sae.json",
        "head": root / "head",
        "predictions": root / "predictions.parquet",
        "latents": root / "latents.parquet",
    }
    outputs = {name: root / f"{name}.parquet" for name in ("interventions", "sweep")}
    interventions.run(SETTINGS, concepts=["mass"], **outputs, **arguments)
    return {
        **{name: read_table(path) for name, path in outputs.items()},
        "table": read_table(root / "interventions.parquet"),
        "latents": read_table(root / "latents.parquet"),
        "decoder": decoder,
        "bias": bias,
        "head": head,
        "embeddings": embeddings,
        "arguments": arguments,
    }


def row_of(run, **where):
    table = run["table"]
    where = {"split": "test", "selection": "ranked", **where}
    found = table[np.logical_and.reduce([table[name] == value for name, value in where.items()])]
    assert len(found) == 1, where
    return found.iloc[0]


@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("splice", ["spliced", "error_preserving"])
@pytest.mark.parametrize("ranking", ["class_mean", "auroc"])
def test_the_algebra_equals_editing_every_code_and_running_pooling_and_head(
    run, world, mode, splice, ranking
):
    test = (world.table["split"] == "test").to_numpy()
    labels = world.table.loc[test, "mass"].astype(int)
    ranked = run["latents"].sort_values(f"rank_{ranking}")
    for k in (0, 1, 2, 5, 32):
        chosen = ranked["latent"].to_numpy()[:k]
        codes = world.dense[test].copy()
        drop = np.setdiff1d(np.arange(codes.shape[-1]), chosen) if mode == "on" else chosen
        codes[..., drop] = 0
        if splice == "spliced":
            edited = codes @ run["decoder"] + run["bias"]
        else:
            edited = run["embeddings"][test] + (codes - world.dense[test]) @ run["decoder"]
        logits = run["head"].logits(edited.mean(axis=(1, 2)))[:, 0]
        row = row_of(run, mode=mode, splice=splice, ranking=ranking, k=k)
        logits = np.round(logits.astype(np.float64), 5)  # float32 sums: constants must stay so
        assert row["auroc"] == pytest.approx(roc_auc_score(labels, logits), abs=2e-4)
        assert row["auprc"] == pytest.approx(average_precision_score(labels, logits), abs=2e-3)
        assert row["latents_kept"] == codes.shape[-1] - len(drop)
        assert row["recall"] == pytest.approx((logits[labels == 1] > 0).mean(), abs=0.021)


def test_logits_of_every_edit_agree_to_one_in_ten_thousand(run, world):
    head, decoder, bias = run["head"], run["decoder"], run["bias"]
    weights, offset = linear.latent_weights(head, "mass", decoder, bias)
    codes = world.dense[:50]
    original = head.logits(run["embeddings"][:50].mean(axis=(1, 2)))[:, 0].astype(np.float64)
    means = codes.mean(axis=(1, 2), dtype=np.float64)
    typical = world.dense.mean(axis=(0, 1, 2), dtype=np.float64)
    data = interventions.Edits(
        copied(means),
        weights,
        offset,
        original,
        np.arange(50) % 2 == 0,
        np.arange(50),
        typical * weights,
    )
    kept = np.random.default_rng(0).random((codes.shape[-1], 7)) < 0.5
    for e in range(7):
        edited = np.where(kept[:, e], codes, 0) @ decoder + bias
        expected = head.logits(edited.mean(axis=(1, 2)))[:, 0]
        np.testing.assert_allclose(data.logits(kept, "spliced")[:, e], expected, atol=1e-4)
        lost = (np.where(kept[:, e], 0, codes) @ decoder).mean(axis=(1, 2)) @ head.weight[0]
        np.testing.assert_allclose(
            data.logits(kept, "error_preserving")[:, e], original - lost, atol=1e-4
        )
        filled = (np.where(kept[:, e], codes, typical) @ decoder).mean(axis=(1, 2))
        change = (filled - (codes @ decoder).mean(axis=(1, 2))) @ head.weight[0]
        np.testing.assert_allclose(
            data.logits(kept, "mean_ablated")[:, e], original + change, atol=1e-4
        )


def test_a_dropped_latent_is_replaced_by_its_mean_over_one_split(world, monkeypatch):
    monkeypatch.setattr(codes, "BLOCK_BYTES", 1)  # blocks of 64 images
    reader = codes.CodesReader(world.codes)
    for split in ("training", "external"):
        found, why = edits.mean_codes(reader, world.table, split)
        here = (world.table["split"] == split).to_numpy()
        np.testing.assert_allclose(
            found, world.dense[here].mean(axis=(0, 1, 2), dtype=float), rtol=1e-5
        )
        assert why == ""


def test_a_split_without_an_image_gives_no_mean_codes_and_a_reason(run, world, tmp_path):
    found, why = edits.mean_codes(codes.CodesReader(world.codes), world.table, "validation")
    assert np.isnan(found).all()
    assert why == "no image of split validation gives mean codes"
    outputs = {name: tmp_path / f"{name}.parquet" for name in ("interventions", "sweep")}
    settings = SETTINGS.model_copy(update={"discovery": "validation", "splits": ("test",)})
    interventions.run(settings, concepts=["mass"], **outputs, **run["arguments"])
    table = read_table(outputs["interventions"]).set_index("splice")
    assert table.loc["mean_ablated", ["auroc", "f1", "f1_high"]].isna().all(axis=None)
    assert (table.loc["mean_ablated", "reason"] == why).all()
    assert table.loc["error_preserving", "auroc"].notna().all()


def test_no_step_at_the_head_holds_the_codes_of_all_images_and_latents(
    run, world, tmp_path, monkeypatch
):
    """Every read, from the codes and from the temporary file, is a part of [images, latents]."""
    monkeypatch.setattr(codes, "BLOCK_BYTES", 1)  # blocks of 64 images
    monkeypatch.setattr(mean_codes, "BLOCK_BYTES", 4 * len(world.table))  # of a latent or two
    monkeypatch.setattr(sweep, "_BYTES", 1)
    monkeypatch.setattr(edits, "EDITED_LOGITS", 1)  # one random order at a time
    monkeypatch.setattr(edits, "NUMBERS_AT_ONCE", 1)  # one draw at a time
    pooled, of_file, sizes = codes.CodesReader.pooled, mean_codes.MeanCodes._read, []

    def noted(function):
        def read(*arguments):
            sizes.append(function(*arguments).size)
            return function(*arguments)

        return read

    monkeypatch.setattr(codes.CodesReader, "pooled", noted(pooled))
    monkeypatch.setattr(mean_codes.MeanCodes, "_read", noted(of_file))
    given = {**run["arguments"], "concepts": ["mass"]}
    outputs = {name: tmp_path / f"{name}.parquet" for name in ("interventions", "sweep")}
    interventions.run(SETTINGS, **outputs, **given)
    for name, path in outputs.items():
        pd.testing.assert_frame_equal(read_table(path), run[name], rtol=1e-9)
    del given["predictions"]
    effects.run(EffectSettings(), **given, output=tmp_path / "effects.parquet")
    assert max(sizes) <= 64 * world.dense.shape[-1] < world.dense[..., 0, 0, :].size / 10


@pytest.mark.parametrize("layer", ["blocks.10", "head.before"])
def test_codes_of_another_layer_than_the_heads_are_refused(run, layer, monkeypatch, tmp_path):
    monkeypatch.setattr(linear, "HEAD", layer)
    inputs = {name: run["arguments"][name] for name in ("images", "codes", "sae", "head")}
    paths = linear.Inputs(**inputs, latents=run["arguments"]["latents"])
    with pytest.raises(
        InputError, match=f"codes of layer head; only the logits of layer {layer} are linear"
    ):
        next(linear.each_share(paths, ["mass"], ["test"], tmp_path))


def test_keeping_no_latent_gives_chance_and_dropping_none_changes_nothing(run):
    assert row_of(run, mode="on", splice="spliced", ranking="auroc", k=0)["auroc"] == 0.5
    spliced = row_of(run, mode="off", splice="spliced", ranking="auroc", k=0)
    kept = row_of(run, mode="on", splice="spliced", ranking="class_mean", k=32)
    assert spliced["auroc"] == kept["auroc"]


def test_k_is_capped_at_the_number_of_latents(run):
    assert sorted(run["table"]["k"].unique()) == [0, 1, 2, 5, 32]


def test_few_ranked_latents_beat_matched_and_random_ones(run):
    ranked = row_of(run, mode="on", splice="spliced", ranking="auroc", k=2)
    for control in ("matched", "random"):
        ranking = "random" if control == "random" else "auroc"
        other = row_of(run, mode="on", splice="spliced", ranking=ranking, selection=control, k=2)
        assert ranked["auroc_low"] > other["auroc"]


def test_the_union_is_the_union_of_both_classes_top_latents(run):
    latents = run["latents"]
    for k in (1, 5):
        union = set(latents.nlargest(k, "mean_positive")["latent"]) | set(
            latents.nlargest(k, "mean_negative")["latent"]
        )
        row = row_of(run, mode="on", splice="spliced", ranking="class_union", k=k)
        assert row["latents_kept"] == len(union)


def _published_script(run, world, k: int, *, on: bool) -> dict[str, float]:
    """Return the scores of Mammo-SAE's top-k scripts, computed from every code, pooling and head.

    Latents are ranked for each class by the mean code of the class minus the mean code of all
    training images. The union of both classes' top k is kept or set to zero, the reconstruction is
    pooled, and an image with a logit above 0 is called positive.
    """
    table = world.table
    training = (table["split"] == "training").to_numpy()
    means = world.dense[training].mean(axis=(1, 2), dtype=np.float64)
    mass = table.loc[training, "mass"].to_numpy(dtype=int)
    group: set[int] = set()
    for label in (0, 1):
        centred = means[mass == label].mean(axis=0) - means.mean(axis=0)
        group |= set(np.argsort(-centred, kind="stable")[:k].tolist())
    test = (table["split"] == "test").to_numpy()
    codes = world.dense[test].astype(np.float64)
    members = np.isin(np.arange(codes.shape[-1]), list(group))
    codes[..., ~members if on else members] = 0
    pooled = (codes @ run["decoder"] + run["bias"]).mean(axis=(1, 2))
    logits = np.round(pooled @ run["head"].weight[0] + run["head"].bias[0], 9)
    truth, called = table.loc[test, "mass"].to_numpy(dtype=int), logits > 0
    return {
        "auroc": roc_auc_score(truth, logits),
        "auprc": average_precision_score(truth, logits),
        "precision": precision_score(truth, called, zero_division=0),
        "recall": recall_score(truth, called),
        "f1": f1_score(truth, called, zero_division=0),
        "latents": len(group),
    }


@pytest.mark.parametrize("mode", ["on", "off"])
def test_both_ends_have_the_scores_of_the_published_scripts(run, world, mode):
    for k in (0, 1, 2, 5):
        theirs = _published_script(run, world, k, on=mode == "on")
        row = row_of(run, mode=mode, splice="spliced", ranking="both_ends", k=k)
        kept = row["latents_kept"] if mode == "on" else world.dense.shape[-1] - row["latents_kept"]
        assert kept == theirs["latents"] == 2 * k
        for measure in ("auroc", "auprc", "recall", "f1"):
            assert row[measure] == pytest.approx(theirs[measure], abs=1e-9), (k, measure)
        # If no image is called positive, their precision is 0 and ours is missing.
        assert np.nan_to_num(row["precision"]) == pytest.approx(theirs["precision"])


def test_thresholds_have_the_largest_f1_of_the_discovery_split(run, world):
    head, decoder, bias = run["head"], run["decoder"], run["bias"]
    means = world.dense.mean(axis=(1, 2), dtype=np.float64)
    truth = world.table["mass"].to_numpy(dtype=int)
    split = world.table["split"].to_numpy()
    ranked = run["latents"].sort_values("rank_auroc")["latent"].to_numpy()
    for k in (0, 1, 5):
        for mode in ("on", "off"):
            codes = means.copy()
            codes[:, ranked[k:] if mode == "on" else ranked[:k]] = 0
            logits = np.round((codes @ decoder + bias) @ head.weight[0] + head.bias[0], 7)
            known = split == "training"
            f1 = {t: f1_score(truth[known], logits[known] >= t) for t in np.unique(logits[known])}
            best = max(t for t in f1 if f1[t] == max(f1.values()))
            for scored in ("test", "external"):
                here = split == scored
                row = row_of(run, split=scored, mode=mode, splice="spliced", ranking="auroc", k=k)
                assert row["threshold"] == pytest.approx(best, abs=1e-6)
                # A logit within the rounding error of the threshold is called, as the threshold is.
                called = logits[here] >= best - 1e-6
                expected = {
                    "precision": precision_score(truth[here], called),
                    "recall": recall_score(truth[here], called),
                    "f1": f1_score(truth[here], called),
                }
                for name, value in expected.items():
                    assert row[f"{name}_at_threshold"] == pytest.approx(value, abs=1e-9)
                    low, high = (row[f"{name}_at_threshold_{end}"] for end in ("low", "high"))
                    assert low <= value <= high


def test_without_discovery_images_only_the_columns_at_the_threshold_are_empty(run, world):
    ranked = run["latents"].sort_values("latent")
    rng = np.random.default_rng(1)
    data = interventions.Edits(
        means=copied(rng.normal(size=(60, len(ranked)))),
        weights=np.ones(len(ranked)),
        offset=0.0,
        original=rng.normal(size=60),
        labels=np.arange(60) % 2 == 0,
        patients=np.arange(60),
        typical=np.zeros(len(ranked)),
    )
    full = edits.intervention_table(SETTINGS, data, Thresholds(data, "training"), ranked)
    empty = edits.intervention_table(SETTINGS, data, Thresholds(None, "training"), ranked)
    late = [name for name in full if "threshold" in name]
    assert len(late) == 10
    assert empty[late].isna().all(axis=None)
    assert full[late].notna().all(axis=None)
    others = [name for name in full if name not in (*late, "reason")]
    pd.testing.assert_frame_equal(full[others], empty[others])
    assert set(full["reason"]) == {""}
    assert set(empty["reason"]) == {"no threshold, training: no image with a label"}


def test_matched_orders_hold_every_latent_once_and_keep_the_firing_rate():
    rng = np.random.default_rng(0)
    firing = rng.random(200)
    order = rng.permutation(200)
    matched = edits.matched_order(order, firing, rng)
    assert sorted(matched) == list(range(200))
    assert np.abs(firing[matched] - firing[order]).max() < 0.2
    assert (matched != order).mean() > 0.8


def test_the_mean_over_random_sets_leaves_out_sets_without_a_number():
    sets = np.array([[1.0, np.nan, 4.0], [np.nan, np.nan, 3.0], [np.nan] * 3])
    np.testing.assert_array_equal(edits._mean(sets), [2.5, 3.0, np.nan])


def test_both_splits_and_all_intervals_are_there(run):
    table = run["table"]
    place = list(table.columns).index("concept")
    assert list(table.columns[place : place + 3]) == ["concept", "split", "labels"]
    assert set(table["split"]) == {"test", "external"}
    ranked = table[(table["selection"] == "ranked") & (table["k"] == 5)]
    assert (ranked["auroc_low"] <= ranked["auroc"]).all()
    assert (ranked["auroc"] <= ranked["auroc_high"]).all()


def test_a_concept_without_positives_gives_rows_without_numbers(run, world):
    ranked = run["latents"].sort_values("latent")
    data = interventions.Edits(
        copied(np.ones((30, len(ranked)))),
        np.ones(len(ranked)),
        0.0,
        np.zeros(30),
        np.zeros(30, bool),
        np.arange(30),
        np.zeros(len(ranked)),
    )
    table = edits.intervention_table(SETTINGS, data, Thresholds(data, "training"), ranked)
    assert table["auroc"].isna().all()
    assert table["f1_high"].isna().all()
    assert (table["reason"] == "0 patients with a positive image, fewer than 10").all()


def test_a_head_without_the_concept_and_missing_predictions_are_named(run, tmp_path):
    with pytest.raises(InputError, match="no concept 'density'"):
        outputs = {name: tmp_path / name for name in ("interventions", "sweep")}
        interventions.run(SETTINGS, concepts=["density"], **outputs, **run["arguments"])
    with pytest.raises(InputError, match="no mass logit of image b"):
        linear.original_logits(
            pd.DataFrame({"image_id": ["a"], "concept": ["mass"], "logit": [0.1]}),
            "mass",
            ["a", "b"],
        )


def test_mean_ablation_at_the_head_changes_no_ranking_of_images(run):
    table = run["table"].set_index(["split", "ranking", "selection", "mode", "k", "splice"])
    kept = table["auroc"].unstack("splice")
    np.testing.assert_array_equal(kept["mean_ablated"], kept["error_preserving"])


def test_the_curve_agrees_with_the_table(run):
    curve = run["sweep"]
    for k in (0, 1, 2, 5):
        for mode in ("on", "off"):
            row = row_of(run, mode=mode, splice="spliced", ranking="auroc", k=k)
            same = (curve["ranking"] == "auroc") & (curve["mode"] == mode) & (curve["k"] == k)
            found = curve.loc[same & (curve["split"] == "test"), "auroc"]
            assert found.item() == pytest.approx(row["auroc"])


def test_effects_of_latents_are_those_of_the_same_inputs_and_their_shares_sum_to_one(run, tmp_path):
    inputs = {name: path for name, path in run["arguments"].items() if name != "predictions"}
    effects.run(EffectSettings(), concepts=["mass"], **inputs, output=tmp_path / "effects.parquet")
    table = read_table(tmp_path / "effects.parquet")
    assert set(table["split"]) == {"test", "external"}
    assert (table.groupby("split")["share"].sum() - 1).abs().max() < 1e-6
