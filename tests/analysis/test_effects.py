from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from copied import copied
from mammo_sae.analysis import effects
from mammo_sae.analysis.interventions import Edits
from mammo_sae.analysis.linear import Shares
from mammo_sae.analysis.settings import EffectSettings

SETTINGS = EffectSettings(bootstrap_draws=100)
RANKED = pd.DataFrame({"rank_auroc": pd.array(np.arange(12) + 1, "Int32")})


def shares(rng, n=120, h=12):
    """Only latent 3 changes the logit of the head; latent 7 never fires."""
    labels = np.repeat(rng.random(n // 2) < 0.4, 2)
    codes = rng.random((n, h))
    codes[:, 3] += labels
    codes[:, 7] = 0.0
    weight = rng.normal(size=h) * 0.1
    weight[3] = 2.0
    patients = np.repeat(np.arange(n // 2), 2)
    return Shares(
        concept="mass",
        split="test",
        rows=np.arange(n),
        ranked=RANKED,
        weights=weight,
        means=copied(codes),
        offset=0.1,
        labels=labels,
        patients=patients,
    )


def test_the_latent_that_the_head_reads_is_ranked_first_with_an_interval_around_its_effect():
    data = shares(np.random.default_rng(0))
    table = effects.effect_table(SETTINGS, data).set_index("latent")
    top = table.loc[3]
    assert top["rank_causal"] == 1
    assert top["effect"] == pytest.approx(2.0, abs=0.25)
    assert top["effect_low"] < top["effect"] < top["effect_high"]
    assert top["effect"] == pytest.approx(top["effect_positive"] - top["effect_negative"])
    assert table["share"].sum() == pytest.approx(1.0)
    assert 7 not in table.index


def test_the_effect_is_the_logit_lost_by_ablating_the_latent():
    data = shares(np.random.default_rng(1))
    kept = np.ones((12, 2), bool)
    kept[3, 1] = False
    edits = Edits(
        data.means,
        data.weights,
        data.offset,
        np.zeros(120),
        data.labels,
        data.patients,
        np.zeros(12),
    )
    logits = edits.logits(kept, "spliced")
    lost = (logits[:, 0] - logits[:, 1])[data.labels].mean()
    table = effects.effect_table(SETTINGS, data).set_index("latent")
    assert table.loc[3, "effect_positive"] == pytest.approx(lost)
    assert table.loc[3, "weight"] == data.weights[3]


def test_the_mean_effect_of_a_single_positive_is_its_contribution():
    labels = np.array([True, False, False])
    contributions = np.array([[3.0], [1.0], [2.0]])
    found = effects.class_effects(contributions, labels, np.ones((3, 1)))
    assert found["effect_positive"] == 3.0
    assert found["effect"] == 1.5


def test_too_few_positives_leave_no_numbers():
    data = shares(np.random.default_rng(2))
    labels = np.zeros(120, bool)
    labels[:4] = True
    table = effects.effect_table(SETTINGS, replace(data, labels=labels))
    assert table["effect"].isna().all()
    assert table["rank_causal"].isna().all()
    assert (table["reason"] == "2 patients with a positive image, fewer than 10").all()
