"""Responses to paired images, against a calculation by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mammo_sae.analysis.responses import responses
from mammo_sae.analysis.settings import BootstrapSettings

PATIENTS = 12


@pytest.fixture(scope="module")
def world() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairs of a marker and of a mass, two a patient, and the scores of four latents."""
    random = np.random.default_rng(3)
    pairs, scores = [], {}
    for patient in range(PATIENTS):
        for view in ("CC", "MLO"):
            base = random.normal(size=4)
            base[3] = 7.0  # constant
            for component, change in (("marker", (3, 0, 0, 0)), ("mass", (0, -1, 0, 0))):
                on, off = (f"{patient}-{view}-{component}-{end}" for end in ("on", "off"))
                scores[off] = base
                scores[on] = base + np.array(change) * (1 + 0.1 * patient)
                pairs.append({"component": component, "patient": patient, "on": on, "off": off})
    table = pd.DataFrame.from_dict(scores, orient="index", columns=["a", "b", "c", "d"])
    return pd.DataFrame(pairs), table


@pytest.fixture(scope="module")
def found(world) -> pd.DataFrame:
    pairs, scores = world
    return responses(BootstrapSettings(bootstrap_draws=400), pairs, scores).set_index(
        ["score", "component"]
    )


def test_the_response_is_the_mean_difference_over_the_standard_deviation(world, found):
    _, scores = world
    growth = np.mean([1 + 0.1 * patient for patient in range(PATIENTS)])
    row = found.loc[("a", "marker")]
    assert row["response"] == pytest.approx(3 * growth / scores["a"].std(ddof=0))
    assert row[["pairs", "patients", "share_on"]].tolist() == [2 * PATIENTS, PATIENTS, 1.0]
    row = found.loc[("b", "mass")]
    assert row["response"] == pytest.approx(-growth / scores["b"].std(ddof=0))
    assert row["share_on"] == 0.0


def test_its_interval_is_that_of_a_mean_over_patients(world, found):
    _, scores = world
    each = np.array([3 * (1 + 0.1 * patient) for patient in range(PATIENTS)])
    error = each.std(ddof=0) / np.sqrt(PATIENTS) / scores["a"].std(ddof=0)
    row = found.loc[("a", "marker")]
    assert row["response"] - row["response_low"] == pytest.approx(1.96 * error, rel=0.15)
    assert row["response_high"] - row["response"] == pytest.approx(1.96 * error, rel=0.15)


def test_a_latent_responds_to_nothing_that_does_not_change_it(found):
    for place in (("a", "mass"), ("b", "marker"), ("c", "marker"), ("c", "mass")):
        assert found.loc[place, ["response", "response_low", "response_high"]].tolist() == [0, 0, 0]


def test_a_constant_score_has_no_response_and_the_reason_says_why(found):
    row = found.loc[("d", "marker")]
    assert row[["response", "response_low", "response_high", "share_on"]].isna().all()
    assert row["reason"] == "the same score on every image of the pairs"
    assert found.loc[("a", "marker"), "reason"] == ""


def test_no_latents_give_an_empty_table(world):
    pairs, scores = world
    assert responses(BootstrapSettings(), pairs, scores[[]]).empty
