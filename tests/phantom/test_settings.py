from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mammo_sae.errors import InputError
from mammo_sae.phantom.settings import PhantomSettings
from mammo_sae.settings import canonical_json, parse_settings


def _refusal(settings: dict) -> str:
    with pytest.raises(InputError) as refusal:
        parse_settings(PhantomSettings, json.dumps(settings), "config.yaml, phantom")
    return str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"density": {"A": 0.5}}, "sum to 1.4; make them sum to 1"),
        ({"mass": {"radius": [24.0, 14.0]}}, "lower end 24.0 is above upper end 14.0"),
        ({"mass": {"contrast": [0.2, 0.9]}}, "mass.contrast.1: must be 0.6 or less"),
        ({"calcification": {"specks": [2, 5]}}, "a cluster has 3 to 60 specks"),
        ({"height": 256, "width": 256}, "must lie between 1.2 and 2"),
        ({"height": 32}, "height: must be 64 or more"),
        ({"prevalence": {"mass": 1.0}}, "prevalence.mass: must be less than 1"),
        ({"confounders": {"marker": {"odds_ratio": 0.0}}}, "confounders.marker.odds_ratio"),
        ({"confounders": {"markr": {"odds_ratio": 2.0}}}, "confounders.markr: unknown key"),
        ({"patients": {"training": 0}}, "patients.training: must be 1 or more"),
    ],
)
def test_bad_settings_are_refused_with_the_key_and_the_reason(settings, sentence):
    assert sentence in _refusal(settings)


def test_the_parts_share_the_recipe_but_not_the_confounding():
    whole = PhantomSettings(seed=4)
    training, external = whole.part("training"), whole.part("external")
    assert training.patients == 400
    assert training.confounders.marker.odds_ratio == 8
    assert external.patients == 150
    confounders = external.confounders
    assert {
        confounders.marker.odds_ratio,
        confounders.vendor.odds_ratio,
        confounders.paddle.odds_ratio,
    } == {1.0}
    assert external.confounders.marker.rate == training.confounders.marker.rate
    assert (external.seed, external.mass) == (4, training.mass)


def test_more_external_patients_leave_the_settings_of_training_alone():
    few = PhantomSettings()
    many = PhantomSettings(patients={"external": 900})
    assert canonical_json(few.part("training")) == canonical_json(many.part("training"))
    assert canonical_json(few.part("external")) != canonical_json(many.part("external"))


def test_settings_of_a_part_survive_json():
    part = PhantomSettings(breasts="both").part("test")
    assert parse_settings(type(part), canonical_json(part), "slice") == part


def test_the_settings_import_nothing_heavy():
    code = (
        "import sys, mammo_sae.phantom.settings; "
        "print([m for m in ('numpy', 'pydicom', 'torch', 'scipy') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "[]"
