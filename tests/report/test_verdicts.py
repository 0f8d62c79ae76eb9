from __future__ import annotations

import pandas as pd

from mammo_sae.report.verdicts import overall


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
            "verdict": verdicts,
        }
    )


def test_one_confounder_that_explains_a_latent_decides():
    row = overall(_rows("concept-aligned", "confounded", "mixed")).iloc[0]
    assert (row["verdict"], row["confounders"]) == ("confounded", "marker")


def test_all_confounders_of_the_gravest_verdict_are_named():
    row = overall(_rows("mixed", "mixed", "concept-aligned")).iloc[0]
    assert (row["verdict"], row["confounders"]) == ("mixed", "density, marker")


def test_an_untestable_confounder_does_not_hide_the_verdict_of_a_testable_one():
    assert overall(_rows("insufficient", "concept-aligned"))["verdict"].item() == "concept-aligned"
    assert overall(_rows("insufficient", "insufficient"))["verdict"].item() == "insufficient"


def test_each_latent_and_sae_has_its_own_verdict():
    both = pd.concat([_rows("confounded"), _rows("unresolved").assign(seed=1)])
    assert overall(both)["verdict"].tolist() == ["confounded", "unresolved"]
