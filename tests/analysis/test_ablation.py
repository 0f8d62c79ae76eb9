from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from copied import copied
from mammo_sae.analysis import (
    ablation,
    confounds,
    groups,
    inner_ablation,
    latents,
    patching,
)
from mammo_sae.analysis.interventions import Edits
from mammo_sae.analysis.latent_sets import ALL, LatentSet, aligned_set, similar_sets, suspected_sets
from mammo_sae.analysis.linear import Shares
from mammo_sae.analysis.refit import NOTHING, Refit, without
from mammo_sae.analysis.scored import Scored
from mammo_sae.analysis.settings import (
    AblationSettings,
    ConfoundSettings,
    InnerAblationSettings,
    LatentSettings,
)
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.grids import LayerGrid
from mammo_sae.regression.features import DenseRows
from mammo_sae.regression.penalised import ridge
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import create_embedding_store
from mammo_sae.stores.tables import read_table, write_table
from scikit_fits import best_fit, standardised

SETTINGS = AblationSettings(bootstrap_draws=60, random_sets=6)
LATENTS = 50
LESION, MARKER = 0, 1
EACH = 30  # patients in each group of marker and label
MARKED = LatentSet("mass", "marker", "confounded", np.array([MARKER]))
# The detector's scores of positive and of negative images, the same at both levels.
POSITIVE, NEGATIVE = np.linspace(1.0, 2.0, EACH), np.linspace(0.51, 1.51, EACH)
ALONE = roc_auc_score([1] * EACH + [0] * EACH, [*POSITIVE, *NEGATIVE])


@dataclass(frozen=True)
class Case:
    """A classifier that adds 3 to the logit of an image with a marker."""

    shares: Shares
    marker: np.ndarray

    def rows(self, sets=(MARKED,), settings=SETTINGS, refit=None) -> pd.DataFrame:
        share = self.shares
        column = pd.Series(self.marker, name="marker")
        found = groups.groups_of(column, share.labels, share.patients, 6)
        heads = {False: (without(share, share.weights @ share.means.of(np.arange(LATENTS))), "")}
        if refit is not None:
            heads[True] = refit.of(share.rows), refit.reason
        data = Scored(share.labels, share.patients, {"marker": found})
        drawn = ablation.with_random(settings, sets, share.ranked)
        return pd.DataFrame(ablation.ablation_rows(settings, data, heads, drawn))


def leaning(images_per_patient=1) -> Case:
    marker, labels = np.repeat([0, 0, 1, 1], EACH), np.repeat([1, 0, 1, 0], EACH) == 1
    codes = np.random.default_rng(0).random((4 * EACH, LATENTS))
    codes[:, LESION] = np.concatenate([POSITIVE, NEGATIVE] * 2)
    codes[:, MARKER] = marker
    weights = np.zeros(LATENTS)
    weights[[LESION, MARKER]] = 1.0, 3.0
    rows = np.repeat(np.arange(4 * EACH), images_per_patient)
    ranked = pd.DataFrame({"latent": np.arange(LATENTS), "firing_rate": 0.5})
    ranked["rank_class_mean"] = pd.array(np.arange(LATENTS) + 1, "Int32")
    shares = Shares(
        concept="mass",
        split="external",
        rows=rows,
        ranked=ranked,
        weights=weights,
        means=copied(codes).at(rows),
        offset=0.0,
        labels=labels[rows],
        patients=rows,
    )
    return Case(shares, marker[rows])


def measure(table, name, **wanted):
    for column, value in {"measure": name, **wanted}.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_without_the_markers_latent_the_worst_group_has_the_detectors_own_auroc():
    row = measure(leaning().rows(), "worst_group")
    assert (row["group"], row["before"]) == ("0 positive, 1 negative", 0.0)
    assert row["after"] == row["difference"] == pytest.approx(ALONE)
    assert ALONE < 0.9
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert row["difference_low"] > 0.5


def test_the_auroc_within_levels_does_not_show_what_a_classifier_adds_for_a_level():
    table = leaning().rows()
    assert measure(table, "worst_stratum")["before"] == pytest.approx(ALONE)
    for level in ("0", "1"):
        row = measure(table, "level", group=level)
        assert row["before"] == row["after"] == pytest.approx(ALONE)
        assert (row["difference"], row["difference_low"], row["difference_high"]) == (0, 0, 0)
    whole = measure(table, "auroc")
    # Of the pairs a quarter lies within each level, and of those between levels half are right.
    assert whole["before"] == pytest.approx((2 * ALONE + 1) / 4)
    assert whole["after"] == pytest.approx(ALONE)


def test_random_sets_of_latents_that_the_head_does_not_read_change_nothing():
    row = measure(leaning().rows(), "worst_group")
    assert row["random_sets"] == 6
    assert row["random_difference"] == row["random_difference_low"] == 0.0
    assert row["random_difference_high"] == 0.0


def test_random_sets_are_scored_like_the_ablated_set():
    data = leaning()
    share = data.shares
    weights = share.weights.copy()
    # All alive latents outside the set are the detector and one other, which the head reads.
    alive = share.ranked.assign(rank_class_mean=pd.array([1, 2, 3] + [pd.NA] * 47, "Int32"))
    means = share.means.of(np.arange(LATENTS)).T
    means[:, 2] = data.marker
    weights[2] = -3.0
    share = replace(share, means=copied(means), ranked=alive, weights=weights)
    settings = SETTINGS.model_copy(update={"random_sets": 40})
    row = measure(replace(data, shares=share).rows(settings=settings), "worst_group")
    # The two latents for the marker cancel. Without the detector every pair is tied; without the
    # other latent the marker decides, as it does where it is ablated itself.
    assert row["before"] == pytest.approx(ALONE)
    assert row["after"] == 0.0
    assert row["random_difference_low"] == pytest.approx(-ALONE)
    assert row["random_difference_high"] == pytest.approx(0.5 - ALONE)


def test_a_set_of_most_latents_has_no_random_sets_and_says_so():
    many = LatentSet("mass", "marker", "confounded", np.arange(1, 40))
    row = measure(leaning().rows(sets=(many,)), "worst_group")
    assert row["after"] == pytest.approx(ALONE)
    assert row["random_sets"] == 0
    assert np.isnan(row["random_difference"])
    assert row["reason"] == "no random set: fewer than 39 other latents vary"


def test_an_ablation_after_which_all_scores_are_equal_is_no_silent_improvement():
    everything = LatentSet("mass", "marker", "confounded", np.arange(LATENTS))
    row = measure(leaning().rows(sets=(everything,)), "worst_group")
    assert (row["before"], row["after"]) == (0.0, 0.5)
    assert row["reason"] == "all images have the same score after the ablation, so the AUROC is 0.5"


def test_an_ablation_keeps_the_error_of_the_sae():
    share = leaning().shares
    rng = np.random.default_rng(1)
    original = share.weights @ share.means.of(np.arange(LATENTS)) + rng.normal(
        size=len(share.labels)
    )
    kept = np.ones((LATENTS, 1), bool)
    kept[[MARKER, 7]] = False
    edits = Edits(
        share.means, share.weights, 0.0, original, share.labels, share.patients, np.zeros(LATENTS)
    )
    found = without(share, original)(np.array([MARKER, 7]))
    np.testing.assert_allclose(found, edits.logits(kept, "error_preserving")[:, 0], atol=1e-12)


def test_several_images_of_a_patient_make_no_interval_narrower():
    once, often = leaning().rows(), leaning(images_per_patient=4).rows()
    numbers = [c for c in once if c.endswith(("_low", "_high")) and "random" not in c]
    pd.testing.assert_frame_equal(once[numbers], often[numbers])
    as_patients = leaning(images_per_patient=4)
    share = replace(as_patients.shares, patients=np.arange(len(as_patients.marker)))
    narrow = measure(replace(as_patients, shares=share).rows(), "worst_group")
    width = narrow["difference_high"] - narrow["difference_low"]
    wide = measure(often, "worst_group")
    assert width < 0.7 * (wide["difference_high"] - wide["difference_low"])


def fitted(marker_odds=0.9):
    """A refit on patients whose markers go with the label, and the test case of the same latents.

    The first half of the positions is the discovery split, the second half is scored.
    """
    data = leaning()
    rng = np.random.default_rng(2)
    count = 400
    labels = rng.random(count) < 0.5
    marker = (rng.random(count) < np.where(labels, marker_odds, 1 - marker_odds)).astype(int)
    lesion = np.where(labels, 1.5, 1.0) + rng.uniform(-0.5, 0.5, count)
    means = np.zeros((count + len(data.marker), LATENTS), np.float32)
    means[:count, [LESION, MARKER]] = np.stack([lesion, marker], axis=1)
    means[count:, [LESION, MARKER]] = data.shares.means.of([LESION, MARKER]).T
    cases = pd.DataFrame({"split": ["training"] * count + ["external"] * len(data.marker)})
    cases["mass"] = pd.array([*labels.astype(int), *data.shares.labels.astype(int)], "Int8")
    cases["patient_id"] = [f"{i:016x}" for i in range(len(cases))]
    atoms = np.zeros((LATENTS, 2), np.float32)
    atoms[[LESION, MARKER]] = np.eye(2)
    shares = replace(data.shares, rows=count + np.arange(len(data.marker)))
    pooled = means @ atoms
    refit = Refit(SETTINGS, cases, "mass", DenseRows([pooled]), copied(means), atoms)
    return refit, replace(data, shares=shares), cases, pooled


def test_a_head_fitted_without_the_markers_latent_has_the_detectors_own_auroc_in_the_worst_group():
    refit, data, _, _ = fitted()
    row = measure(data.rows(refit=refit), "worst_group", refit=True)
    assert row["before"] < 0.5
    assert row["after"] == pytest.approx(ALONE)
    assert row["difference_low"] > 0.2


def test_a_refit_with_nothing_ablated_is_the_fit_of_the_embeddings_as_they_are():
    refit, data, cases, pooled = fitted()
    found = np.flatnonzero(cases["split"] == "training")
    truth = (cases["mass"] == 1).to_numpy()[found]
    features, patients = standardised(pooled, found), cases["patient_id"].to_numpy()[found]
    _, model = best_fit(features[found], truth, patients, SETTINGS.penalties, 2, ridge)
    expected = model.decision_function(features)
    np.testing.assert_allclose(refit.scores(NOTHING), expected, atol=1e-3 * expected.std())
    row = measure(data.rows(refit=refit), "auroc", refit=True)
    assert row["before"] == pytest.approx(
        roc_auc_score(data.shares.labels, expected[data.shares.rows])
    )


def test_too_few_patients_leave_a_reason_and_no_number():
    data = leaning()
    labels = data.shares.labels & (np.arange(len(data.marker)) < 4)
    table = replace(data, shares=replace(data.shares, labels=labels)).rows()
    assert table["before"].isna().all()
    assert (table["reason"] == "4 patients with a positive image, fewer than 10").all()
    refit, data, cases, pooled = fitted()
    cases.loc[cases["split"] == "training", "mass"] = 0
    refit = Refit(SETTINGS, cases, "mass", DenseRows([pooled]), copied(pooled), np.eye(2))
    table = data.rows(refit=refit)
    few = "training: 0 patients with a positive image, fewer than 10"
    assert (table.loc[table["refit"], "reason"] == few).all()
    assert measure(table, "worst_group", refit=False)["reason"] == ""


def test_a_confounder_without_latents_keeps_the_score_before_and_says_why():
    nothing = LatentSet("mass", "marker", "confounded, mixed", NOTHING)
    row = measure(leaning().rows([nothing]), "worst_group")
    assert row["before"] == 0.0
    assert np.isnan(row["after"])
    assert np.isnan(row["random_difference"])
    assert row["reason"] == "no latent of mass is confounded or mixed for marker"


def test_a_confounder_with_one_level_that_can_be_scored_has_no_groups():
    truth, patients = np.arange(60) % 2 == 0, np.arange(60)
    column = pd.Series(["a"] * 50 + ["b"] * 10, name="vendor")
    _, why = groups.groups_of(column, truth, patients, 6)
    assert why.startswith("1 level of vendor has 10 patients")
    _, why = groups.groups_of(pd.Series([pd.NA] * 60, name="vendor"), truth, patients, 6)
    assert why == "vendor is unknown for every image"


VERDICTS = pd.DataFrame(
    [
        ("mass", 3, "marker", "confounded"),
        ("mass", 3, "vendor", "concept-aligned"),
        ("mass", 5, "marker", "mixed"),
        ("mass", 5, "vendor", "confounded"),
        ("mass", 8, "marker", "concept-aligned"),
        ("mass", 8, "vendor", "concept-aligned"),
        ("cyst", 8, "marker", "mixed"),
    ],
    columns=["concept", "latent", "confounder", "verdict"],
)


def test_the_sets_are_those_of_each_confounder_and_of_the_most_severe_verdict():
    found = {(s.called_for, s.verdicts): [*s.latents] for s in suspected_sets(VERDICTS, "mass")}
    assert found == {
        (ALL, "confounded"): [3, 5],
        (ALL, "confounded, mixed"): [3, 5],
        ("marker", "confounded"): [3],
        ("marker", "confounded, mixed"): [3, 5],
        ("vendor", "confounded"): [5],
        ("vendor", "confounded, mixed"): [5],
    }
    assert [*aligned_set(VERDICTS, "mass").latents] == [8]
    assert aligned_set(VERDICTS, "cyst").why_empty == "no latent of cyst is concept-aligned"
    assert [s.called_for for s in suspected_sets(VERDICTS, "unknown")] == [ALL, ALL]


def test_random_sets_fire_as_often_as_the_set_and_have_none_of_its_latents():
    rng = np.random.default_rng(3)
    firing, alive = rng.random(400), rng.random(400) < 0.9
    chosen = np.flatnonzero(alive & (firing > 0.8))[:15]
    sets = similar_sets(chosen, firing, alive, 30, 0)
    assert len({tuple(one) for one in sets}) == 30
    for one in sets:
        assert len(np.unique(one)) == 15
        assert alive[one].all()
        assert not np.isin(one, chosen).any()
        assert abs(firing[one].mean() - firing[chosen].mean()) < 0.05
    assert similar_sets(np.arange(399), firing, np.ones(400, bool), 3, 0) == []


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """The table of a head that reads the lesion detector and, more strongly, the marker."""
    root = tmp_path_factory.mktemp("ablation")
    rng = np.random.default_rng(6)
    h, d = world.dense.shape[-1], 48
    decoder = np.linalg.qr(rng.normal(size=(d, h)))[0].T.astype(np.float32)
    decoder = np.ascontiguousarray(decoder)
    SparseAutoencoder(
        torch.from_numpy(decoder.copy()), torch.zeros(h), torch.from_numpy(decoder),
        torch.zeros(d), k=h,
    ).save(root / "sae.safetensors", root / "sae.json")  # fmt: skip
    # Logits of some hundred units: at an inner layer they are rounded to four decimals.
    weight = 100 * decoder[world.latent("clean")] + 300 * decoder[world.latent("marker")]
    head = Head(weight[None], np.zeros(1, np.float32), ("mass",))
    save_head(head, root / "head.safetensors", root / "head.json")
    reader = CodesReader(world.codes)
    error = 0.002 * rng.normal(size=(len(world.table), d))
    pooled = (reader.pooled("mean") @ decoder + error).astype(np.float32)
    ids = world.table["image_id"].tolist()
    with create_embedding_store(
        root / "0", root / "0.json", image_ids=ids,
        grids=[LayerGrid("pooled", d, 1, 1, 0, 0.0, 0.0, 0)],
    ) as writer:  # fmt: skip
        writer.write({"pooled": pooled[:, None, None]})
    logits = head.logits(pooled)[:, 0]
    write_table(
        pd.DataFrame({"image_id": ids, "concept": "mass", "logit": logits}),
        root / "predictions.parquet",
    )
    common = {"identity": world.identity, "images": world.images, "codes": world.codes}
    common["concepts"] = ["mass"]
    ranked, judged = root / "latents.parquet", root / "confounds.parquet"
    latents.run(LatentSettings(bootstrap_draws=20, permutation_draws=199), **common, output=ranked)
    confounds.run(
        ConfoundSettings(bootstrap_draws=60, permutation_draws=199, top_latents=6),
        **common, latents=ranked, image_stores=world.image_stores,
        measurements=world.measurements, output=judged,
    )  # fmt: skip
    arguments = {
        **common, "image_stores": world.image_stores, "embeddings": [root / "0.json"],
        "sae": root / "sae.json", "head": root, "predictions": root / "predictions.parquet",
        "latents": ranked, "confounds": judged, "measurements": world.measurements,
    }  # fmt: skip
    ablation.run(SETTINGS, **arguments, output=root / "ablation.parquet")
    return read_table(root / "ablation.parquet"), logits, (root, arguments, decoder, pooled)


def test_the_table_of_a_run_shows_that_ablation_repairs_the_worst_group_on_the_external_split(run):
    table = run[0]
    by_marker = table[(table["called_for"] == "marker") & (table["confounder"] == "marker")]
    wanted = {"split": "external", "verdicts": "confounded"}
    row = measure(by_marker, "worst_group", refit=False, **wanted)
    assert row["latents"] == 1
    assert (row["group"], row["before"] < 0.3) == ("0 positive, 1 negative", True)
    assert row["difference_low"] > 0.3
    assert row["random_difference_high"] < 0.05 < row["difference_low"]


def test_only_the_split_that_no_choice_has_seen_is_independent(run):
    table = run[0]
    assert table.groupby("split")["independent"].unique().map(list).to_dict() == {
        "external": [True],
        "test": [False],
    }


def test_the_network_before_the_ablation_has_the_auroc_of_its_logits(run, world):
    table, logits, _ = run
    for split in ("test", "external"):
        here = (world.table["split"] == split).to_numpy()
        rows = table[(table["split"] == split) & (table["measure"] == "auroc") & ~table["refit"]]
        expected = roc_auc_score(world.table["mass"][here].astype(int), logits[here])
        np.testing.assert_allclose(rows["before"], expected)


def test_the_rows_of_aligned_latents_are_the_probe_perturbation_without_refit(run):
    table = run[0]
    rows = table[table["verdicts"] == "concept-aligned"]
    assert set(rows["measure"]) == {"auroc"}
    assert not rows["refit"].any()
    assert (rows.loc[rows["latents_of"] == "mass", "latents"] >= 1).all()
    assert (rows["difference_high"] < -0.05).all()


class Averaged:
    """A network whose rest is a mean over the cells, as at the head."""

    dtype = torch.float32

    def rest(self, layer, maps):
        assert layer == "head"
        return maps.cells.mean((2, 3))


@pytest.fixture(scope="module")
def inner_run(run, world):
    """A function that ablates through the network, by settings, and returns the table."""
    _, _, (root, arguments, decoder, pooled) = run
    cells = world.dense @ decoder
    cells += (pooled - cells.mean((1, 2)))[:, None, None]  # the error of the SAE
    grid = replace(world.grid, channels=cells.shape[-1])
    with create_embedding_store(
        root / "cells",
        root / "cells.json",
        image_ids=world.table["image_id"].tolist(),
        grids=[grid],
    ) as writer:
        writer.write({grid.layer: cells.astype(np.float32)})
    given = {k: v for k, v in arguments.items() if k != "predictions"}
    given |= {"embeddings": [root / "cells.json"], "encoder": root}

    def ablate(**settings) -> pd.DataFrame:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(patching, "load_encoder", lambda _: Averaged())
            inner_ablation.run(
                InnerAblationSettings(bootstrap_draws=60, **settings),
                **given, output=root / "inner.parquet",
            )  # fmt: skip
        return read_table(root / "inner.parquet")

    return ablate


def test_runs_of_the_network_give_the_closed_form_where_the_rest_is_a_mean(run, inner_run):
    found = inner_run(splits=("test", "external"), random_sets=6, images=10_000)
    exact = run[0]
    exact = exact[~exact["refit"] & (exact["verdicts"] == "confounded")].reset_index(drop=True)
    same = ["split", "independent", "called_for", "latents", "confounder", "measure"]
    pd.testing.assert_frame_equal(found[same], exact[same])
    numbers = ["before", "after", "difference", "random_difference"]
    assert found[numbers].notna().any().all()
    # Cells are stored in float16, and pooled embeddings in float32.
    np.testing.assert_allclose(found[numbers], exact[numbers], atol=0.01)


def test_only_whole_patients_up_to_the_limit_are_run_and_few_leave_a_reason(inner_run):
    table = inner_run(images=5)
    assert table["before"].isna().all()
    assert table["reason"].str.contains("fewer than 10").all()
    table = inner_run(splits=("validation",))
    assert table["before"].isna().all()
    assert (table["reason"] != "").all()
