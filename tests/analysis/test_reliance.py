from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from copied import copied
from mammo_sae.analysis import reliance
from mammo_sae.analysis.linear import Shares
from mammo_sae.analysis.settings import EffectSettings

SETTINGS = EffectSettings(bootstrap_draws=100)
VERDICTS = pd.Series({0: "concept-aligned", 1: "confounded", 2: "confounded", 3: "unresolved"})


def shares(n=80):
    """Latent 0 adds 2 to positives, 1 and 2 add 3 and -1; latent 4 was not tested and adds 0.5."""
    labels = np.arange(n) % 2 == 0
    contributions = np.outer(labels, [2.0, 3.0, -1.0, 0.0, 0.5])
    contributions += np.random.default_rng(0).normal(size=5)  # the same in every image
    return Shares(
        concept="mass",
        split="test",
        rows=np.arange(n),
        ranked=pd.DataFrame(),
        weights=np.ones(5),
        means=copied(contributions),
        offset=0.7,
        labels=labels,
        patients=np.arange(n) // 2,
    )


def contributions_of(data):
    return data.means.of(np.arange(5)).T


def table_of(data, error=0.5):
    original = data.offset + contributions_of(data).sum(axis=1) + error * data.labels
    return reliance.reliance_table(SETTINGS, data, original, VERDICTS).set_index("verdict")


def test_each_verdict_has_its_part_of_the_difference_between_the_classes():
    table = table_of(shares())
    assert table.loc["concept-aligned", "difference"] == pytest.approx(2.0)
    assert table.loc["confounded", "difference"] == pytest.approx(2.0)
    assert table.loc["not tested", "difference"] == pytest.approx(0.5)
    assert table.loc["SAE error", "difference"] == pytest.approx(0.5)
    assert table.loc["mixed", "difference"] == 0.0
    np.testing.assert_allclose(table["logit_difference"], 5.0)
    assert table.loc["confounded", "share"] == pytest.approx(0.4)
    assert table.loc["confounded", "latents"] == 2
    assert pd.isna(table.loc["SAE error", "latents"])


def test_the_shares_add_up_to_one_with_the_error_and_the_untested_latents():
    rng = np.random.default_rng(1)
    data = shares()
    noisy = replace(data, means=copied(contributions_of(data) + rng.normal(size=(80, 5))))
    table = table_of(noisy, error=rng.normal(size=80) + 1)
    assert table["share"].sum() == pytest.approx(1.0, abs=1e-12)
    assert (table["share_low"] <= table["share"]).all()
    assert (table["share"] <= table["share_high"]).all()
    assert (table.loc["confounded", "share_high"] - table.loc["confounded", "share_low"]) > 0.01


def test_a_logit_that_does_not_differ_between_the_classes_has_no_shares():
    rng = np.random.default_rng(2)
    data = shares()
    table = table_of(replace(data, means=copied(rng.normal(size=(80, 5)))), error=0.0)
    assert table["share"].isna().all()
    assert table["difference"].notna().all()
    assert table["reason"].iloc[0].startswith("the logit hardly differs between the classes")


def test_too_few_patients_have_a_reason():
    data = shares()
    table = table_of(replace(data, labels=np.arange(80) < 6))
    assert (table["reason"] == "3 patients with a positive image, fewer than 10").all()
    assert table["difference"].isna().all()
