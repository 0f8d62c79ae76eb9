from __future__ import annotations

import pandas as pd
import pytest

from mammo_sae.analysis.verdict import overall
from mammo_sae.report.verdicts import OFF, ON, UNCLEAR, location


def _rows(*verdicts):
    return pd.DataFrame(
        {
            "encoder": "e",
            "layer": "head",
            "sae": "topk",
            "seed": 0,
            "concept": "mass",
            "latent": 7,
            "confounder": ["density", "marker", "paddle"][: len(verdicts)],
            "concept_auroc": 0.7,
            "conditional_auroc": [0.52, 0.91, 0.3][: len(verdicts)],
            "effect": [0.04, 0.82, -0.4][: len(verdicts)],
            "discriminates": [False, True, True][: len(verdicts)],
            "verdict": verdicts,
            "reason": ["of density", "of marker", "of paddle"][: len(verdicts)],
        }
    )


def test_one_confounder_that_explains_a_latent_decides():
    row = overall(_rows("concept-aligned", "confounded", "mixed")).iloc[0]
    assert (row["verdict"], row["confounders"]) == ("confounded", "marker")


def test_all_confounders_of_the_most_severe_verdict_are_named():
    row = overall(_rows("mixed", "mixed", "concept-aligned")).iloc[0]
    assert (row["verdict"], row["confounders"]) == ("mixed", "density, marker")
    assert row["reason"] == "of marker", "not that of the one that it discriminates best"


def test_anatomy_is_graver_than_unresolved_and_less_grave_than_mixed():
    assert overall(_rows("unresolved", "anatomy"))["verdict"].item() == "anatomy"
    assert overall(_rows("mixed", "anatomy"))["verdict"].item() == "mixed"


def test_an_unassociated_latent_lists_what_it_discriminates_best_first():
    row = overall(_rows(*["not associated"] * 3)).iloc[0]
    assert (row["verdict"], row["discriminates"]) == ("not associated", "marker 0.91, paddle 0.30")
    assert overall(_rows("insufficient"))["discriminates"].item() == ""


def test_an_untestable_confounder_does_not_hide_the_verdict_of_a_testable_one():
    assert overall(_rows("insufficient", "concept-aligned"))["verdict"].item() == "concept-aligned"
    assert overall(_rows("insufficient", "insufficient"))["verdict"].item() == "insufficient"


def test_each_latent_and_sae_has_its_own_verdict():
    both = pd.concat([_rows("confounded"), _rows("unresolved").assign(seed=1)])
    assert overall(both)["verdict"].tolist() == ["confounded", "unresolved"]


DETECTOR = {
    "fires": 0.8,
    "energy_lift": 3.0,
    "energy_lift_low": 2.0,
    "energy_lift_high": 4.0,
    "shuffled_energy_lift": 1.2,
    "pointing": 0.6,
    "pointing_low": 0.5,
    "shuffled_pointing": 0.1,
    "q": 0.01,
}


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({}, ON),
        ({"q": 0.049}, ON),
        ({"q": 0.09}, UNCLEAR),
        ({"q": float("nan")}, UNCLEAR),
        (
            {"energy_lift_low": 1.1},
            UNCLEAR,
        ),  # above chance, but masks of other patients are above chance too
        ({"energy_lift_low": 0.9, "shuffled_energy_lift": 0.5}, UNCLEAR),
        ({"pointing": 0.08, "pointing_low": 0.02}, UNCLEAR),
        (
            {"pointing": 0.41, "pointing_low": 0.3},
            ON,
        ),  # half of the 0.8 of the images in which it fires
        ({"pointing": 0.39, "pointing_low": 0.3}, UNCLEAR),
        ({"pointing_low": 0.09}, UNCLEAR),
        ({"energy_lift_low": 0.1, "energy_lift_high": 0.9}, OFF),
        ({"energy_lift": float("nan")}, ""),
    ],
)
def test_a_latent_is_on_the_lesion_only_if_lift_q_and_pointing_agree(changed, where):
    assert location(pd.Series(DETECTOR | changed)) == where
