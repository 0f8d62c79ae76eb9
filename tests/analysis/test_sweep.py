from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from copied import copied
from mammo_sae.analysis import sweep
from mammo_sae.analysis.edits import first
from mammo_sae.analysis.interventions import Edits
from mammo_sae.analysis.settings import InterventionSettings
from mammo_sae.statistics import auroc


@pytest.fixture
def data() -> Edits:
    rng = np.random.default_rng(3)
    contributions = rng.normal(size=(80, 30)) * (rng.random((80, 30)) < 0.3)
    contributions[:, [4, 9]] = 0.0
    labels = rng.random(80) < 0.4
    original = rng.normal(size=80)
    return Edits(
        copied(contributions), np.ones(30), 0.7, original, labels, np.arange(80), np.zeros(30)
    )


@pytest.mark.parametrize("size", [1 << 27, 80 * 8 * 7])
def test_every_point_equals_the_edit_with_that_many_latents(data, monkeypatch, size):
    monkeypatch.setattr(sweep, "_BYTES", size)
    order = np.random.default_rng(0).permutation(30)
    curves = sweep.sweep(data, sweep.working(data), order)
    kept = first(order, range(31))
    last = len(curves["on"])
    for mode, members in (("on", kept), ("off", ~kept)):
        logits = np.round(data.logits(members, "spliced"), 9)
        np.testing.assert_allclose(curves[mode], auroc(logits, data.labels)[:last])


def test_the_curve_ends_with_the_last_latent_that_fires(data):
    order = np.append(np.setdiff1d(np.arange(30), [4, 9]), [4, 9])
    curves = sweep.sweep(data, sweep.working(data), order)
    assert len(curves["on"]) == 29
    assert curves["off"][-1] == 0.5
    assert curves["on"][-1] == curves["off"][0]


def test_a_split_with_too_few_positives_has_a_reason_and_no_number(data):
    labels = np.zeros(len(data.labels), bool)
    labels[:9] = True
    ranked = pd.DataFrame({"latent": np.arange(30)})
    table = sweep.sweep_table(InterventionSettings(), replace(data, labels=labels), ranked)
    [row] = table.to_dict("records")
    assert row["reason"] == "9 patients with a positive image, fewer than 10"
    assert np.isnan(row["auroc"])
    assert (row["ranking"], row["mode"], row["k"]) == ("", "", 0)
