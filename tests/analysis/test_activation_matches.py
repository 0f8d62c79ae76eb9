from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae.analysis import activation_matches
from mammo_sae.analysis.cases import Identity
from mammo_sae.analysis.exchange import PatientExchanges
from mammo_sae.analysis.settings import ActivationMatchSettings
from mammo_sae.errors import InputError
from mammo_sae.grids import LayerGrid
from mammo_sae.stores import codes
from mammo_sae.stores.codes import create_codes_store
from mammo_sae.stores.tables import read_table, write_table

GRID = LayerGrid("head", 1, 1, 1, 32, 0.0, 0.0, 31)


def write(folder, name, ids, scores):
    n, h = scores.shape
    pooled = dict.fromkeys(
        ("max", "mean", "active", "max_breast", "mean_breast", "active_breast"), scores
    )
    with create_codes_store(
        folder / f"{name}.zarr", folder / f"{name}.json", image_ids=ids, grid=GRID, latents=h, k=1
    ) as writer:
        empty = np.zeros((n, 1, 1, 1), np.float32)
        writer.write(np.arange(n), empty.astype(np.int32), empty, pooled)
    return folder / f"{name}.json"


def match(folder, before, after):
    activation_matches.run(
        ActivationMatchSettings(),
        identity=Identity("other", "head", "topk", 0),
        images=folder / "images.parquet",
        reference="first",
        codes_before=before,
        codes_after=after,
        output=folder / "matches.parquet",
    )
    return read_table(folder / "matches.parquet")


@pytest.fixture
def cohort(tmp_path):
    n = 400
    table = pd.DataFrame(
        {
            "image_id": [f"{i:04x}" for i in range(n)],
            "patient_id": [f"{i // 2:04x}" for i in range(n)],
            "split": ["training"] * 200 + ["test"] * 200,
            "side": "L",
        }
    )
    write_table(table, tmp_path / "images.parquet")
    return table


def test_latents_that_activate_on_the_same_images_are_matched(cohort, tmp_path):
    rng = np.random.default_rng(0)
    ids = cohort["image_id"].tolist()
    shared = rng.exponential(size=(400, 6)).astype(np.float32)
    others = rng.exponential(size=(400, 20)).astype(np.float32)
    first = np.concatenate([others, shared], axis=1)
    # The same latents in another order, on another scale and with noise, and some of its own.
    second = np.concatenate(
        [
            np.exp(shared[:, ::-1]) + 0.1 * rng.random((400, 6)),
            rng.exponential(size=(400, 10)),
            np.zeros((400, 1)),
        ],
        axis=1,
    ).astype(np.float32)
    before = write(tmp_path, "before", ids[::-1], first[::-1])
    found = match(tmp_path, before, write(tmp_path, "after", ids, second))
    assert found["match"].iloc[:6].tolist() == [25, 24, 23, 22, 21, 20]
    assert found["matched"].iloc[:6].all()
    assert (found["correlation"].iloc[:6] > 0.9).all()
    assert found["matched"].iloc[6:16].mean() <= 0.2
    assert 0 < found["chance"].iloc[0] < 0.3
    assert found["match"].isna().tolist() == [False] * 16 + [True]
    assert found["reason"].iloc[16] == "it or every other latent has one score on all images"
    assert set(found["reference"]) == {"first"}
    assert set(found["encoder"]) == {"other"}


def test_the_correlation_is_spearmans_over_the_confirmation_images(cohort, tmp_path):
    rng = np.random.default_rng(1)
    ids = cohort["image_id"].tolist()
    first = rng.integers(0, 5, size=(400, 3)).astype(np.float32)
    second = (first[:, 1:2] + rng.normal(size=(400, 1))).astype(np.float32)
    before = write(tmp_path, "before", ids, first)
    found = match(tmp_path, before, write(tmp_path, "after", ids, second)).iloc[0]
    assert found["match"] == 1
    for name, rows in (("discovery_correlation", slice(0, 200)), ("correlation", slice(200, 400))):
        expected = pd.Series(first[rows, 1]).corr(pd.Series(second[rows, 0]), method="spearman")
        assert found[name] == pytest.approx(expected, abs=1e-5)


def test_a_match_of_the_discovery_images_alone_is_not_matched(cohort, tmp_path):
    rng = np.random.default_rng(2)
    ids = cohort["image_id"].tolist()
    first = rng.exponential(size=(400, 30)).astype(np.float32)
    second = rng.exponential(size=(400, 5)).astype(np.float32)
    second[:200, 0] = first[:200, 7]
    before = write(tmp_path, "before", ids, first)
    found = match(tmp_path, before, write(tmp_path, "after", ids, second)).iloc[0]
    assert found["match"] == 7
    assert found["discovery_correlation"] == pytest.approx(1, abs=1e-5)
    assert abs(found["correlation"]) < 0.25


def test_blocks_of_latents_change_nothing(cohort, tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    ids = cohort["image_id"].tolist()
    first = rng.exponential(size=(400, 40)).astype(np.float32)
    second = (first[:, ::2] + rng.exponential(size=(400, 20))).astype(np.float32)
    before = write(tmp_path, "before", ids, first)
    after = write(tmp_path, "after", ids, second)
    whole = match(tmp_path, before, after)
    monkeypatch.setattr(codes, "BLOCK_BYTES", 4 * 400 * 4)  # four latents
    monkeypatch.setattr(activation_matches, "OWN_BLOCKS", 2)
    pd.testing.assert_frame_equal(match(tmp_path, before, after), whole, atol=1e-6)


def test_exchanged_scores_of_others_give_the_products_of_exchanged_own_scores():
    patients = np.repeat(["a", "b", "c", "d", "e"], [1, 2, 4, 4, 2])
    own, other = np.random.default_rng(4).normal(size=(2, 13, 3))
    moved = PatientExchanges(patients, 1, 7).of(np.arange(13))[0]
    assert len(set(moved)) < 13  # images are repeated, so this is no permutation
    exchange = activation_matches._exchange(patients, 7)
    np.testing.assert_allclose(own.T @ (exchange @ other), own[moved].T @ other)


def test_codes_of_other_images_are_refused(cohort, tmp_path):
    ids = cohort["image_id"].tolist()
    ones = np.ones((400, 2), np.float32)
    before = write(tmp_path, "before", ids, ones)
    after = write(tmp_path, "after", ids[:300], ones[:300])
    with pytest.raises(InputError, match="are of different images; encode again"):
        match(tmp_path, before, after)
