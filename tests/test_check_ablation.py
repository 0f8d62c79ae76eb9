"""The benchmark of ablation (`make truth`) on tables that are made by construction."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from mammo_sae.config import load_config

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "check_ablation.py"
SPECIFICATION = importlib.util.spec_from_file_location("check_ablation", SCRIPT)
check = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(check)


def rows(difference=0.08, random_high=0.01, **other) -> pd.DataFrame:
    row = {
        "layer": "blocks.10", "concept": "mass", "latents_of": "mass", "split": "external",
        "called_for": "marker", "verdicts": "confounded", "confounder": "marker",
        "measure": "worst_group", "refit": False, "latents": 3, "before": 0.6,
        "after": 0.6 + difference, "difference": difference, "difference_low": 0.02,
        "difference_high": 0.14, "random_difference": 0.0, "random_difference_low": -0.01,
        "random_difference_high": random_high, "reason": "",
    }  # fmt: skip
    return pd.DataFrame([row | other])


@pytest.mark.parametrize(
    ("table", "status"),
    [
        (rows(), 0),
        (rows(difference=0.04), 1),
        (rows(random_high=0.09), 1),
        (rows(layer="head"), 1),
        (rows(split="test"), 1),
        (rows(confounder="", measure="auroc"), 1),
        (pd.concat([rows(layer="head", refit=True, difference=0.0), rows()]), 0),
    ],
)
def test_the_goal_is_met_only_at_the_finest_layer_in_the_external_split(table, status):
    assert check.report(table) == status


def test_the_line_of_a_row_has_the_scores_before_and_after(capsys):
    check.report(rows())
    said = capsys.readouterr().out
    assert "blocks.10, own head, 3 latents confounded, worst_group: 0.600 -> 0.680" in said
    assert "difference +0.080 [+0.020, +0.140], random sets +0.000 [-0.010, +0.010]" in said


def test_the_configuration_of_the_benchmark_is_valid():
    config = load_config(check.configuration(21), "configuration")
    assert config.phantom.confounders.marker.odds_ratio == check.ODDS_RATIO
    assert config.layers == ["blocks.10", "head"]
    assert config.inner.layers == ("blocks.10",)
