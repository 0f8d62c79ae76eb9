from __future__ import annotations

import math

import numpy as np
import pytest

from mammo_sae.phantom.plan import conditional_probabilities, plan_patient
from mammo_sae.phantom.settings import PhantomSettings

PATIENTS = 4000


def _log_odds_ratio(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the log odds ratio of two yes/no columns and its standard error (Woolf 1955)."""
    table = np.array([[np.sum((first == a) & (second == b)) for b in (0, 1)] for a in (0, 1)])
    log = math.log(table[1, 1] * table[0, 0] / (table[1, 0] * table[0, 1]))
    return log, math.sqrt((1 / table).sum())


@pytest.fixture(scope="module")
def columns():
    """Return a function: yes/no columns of many patients of a part, by name."""

    def draw(part: str, **changes) -> dict[str, np.ndarray]:
        settings = PhantomSettings(**changes).part(part)
        patients = [plan_patient(settings, number) for number in range(PATIENTS)]
        found = {
            name: np.array([name in patient.artefacts for patient in patients])
            for name in ("marker", "vendor", "paddle")
        }
        found["mass"] = np.array([patient.mass is not None for patient in patients])
        found["cluster"] = np.array([patient.cluster is not None for patient in patients])
        return found

    return draw


@pytest.mark.parametrize("odds_ratio", [0.2, 1.0, 3.0, 20.0])
@pytest.mark.parametrize(("concept_rate", "artefact_rate"), [(0.4, 0.5), (0.05, 0.9)])
def test_conditional_probabilities_have_the_margins_and_the_odds_ratio(
    concept_rate, artefact_rate, odds_ratio
):
    absent, present = conditional_probabilities(concept_rate, artefact_rate, odds_ratio)
    assert 0 < absent < 1
    assert 0 < present < 1
    assert concept_rate * present + (1 - concept_rate) * absent == pytest.approx(artefact_rate)
    realised = present / (1 - present) / (absent / (1 - absent))
    assert realised == pytest.approx(odds_ratio)


def test_realised_odds_ratios_are_those_configured(columns):
    drawn = columns("training")
    for name, odds_ratio in (("marker", 8), ("vendor", 3), ("paddle", 1)):
        log, error = _log_odds_ratio(drawn["mass"], drawn[name])
        assert abs(log - math.log(odds_ratio)) < 3 * error, name
        assert error < 0.1
    log, error = _log_odds_ratio(drawn["mass"], drawn["cluster"])
    assert abs(log - math.log(1.5)) < 3 * error


def test_the_external_part_differs_only_in_being_unconfounded(columns):
    training, external = columns("training"), columns("external")
    for name in ("marker", "vendor", "paddle"):
        log, error = _log_odds_ratio(external["mass"], external[name])
        assert abs(log) < 3 * error, name
    for name, column in training.items():
        spread = math.sqrt(2 * column.mean() * (1 - column.mean()) / PATIENTS)
        assert abs(column.mean() - external[name].mean()) < 3 * spread, name


def test_artefacts_can_be_planted_on_calcifications_instead(columns):
    drawn = columns(
        "test",
        confounders={"concept": "suspicious_calcification"},
        prevalence={"odds_ratio": 1.0},
    )
    log, error = _log_odds_ratio(drawn["cluster"], drawn["marker"])
    assert abs(log - math.log(8)) < 3 * error
    log, error = _log_odds_ratio(drawn["mass"], drawn["marker"])
    assert abs(log) < 3 * error


def test_a_stronger_confounder_changes_nothing_else_of_a_patient():
    weak = PhantomSettings(confounders={"marker": {"odds_ratio": 1.0}}).part("training")
    strong = PhantomSettings(confounders={"marker": {"odds_ratio": 100.0}}).part("training")
    changed = 0
    for number in range(60):
        before, after = plan_patient(weak, number), plan_patient(strong, number)
        changed += before != after
        assert before.mass == after.mass
        assert before.density == after.density
        assert before.artefacts - {"marker"} == after.artefacts - {"marker"}
    assert changed > 0


def test_a_lesion_lies_in_one_of_two_breasts():
    settings = PhantomSettings(breasts="both").part("training")
    patients = [plan_patient(settings, number) for number in range(60)]
    with_mass = [patient for patient in patients if patient.mass is not None]
    assert {patient.sides for patient in patients} == {("L", "R")}
    assert {patient.mass.side for patient in with_mass} == {"L", "R"}
    for patient in with_mass:
        other = "L" if patient.mass.side == "R" else "R"
        assert patient.breast_mass(patient.mass.side) is patient.mass
        assert patient.breast_mass(other) is None


def test_density_follows_its_shares():
    settings = PhantomSettings(density={"A": 0.0, "B": 0.3, "C": 0.7, "D": 0.0}).part("test")
    drawn = [plan_patient(settings, number).density for number in range(1000)]
    assert set(drawn) == {"B", "C"}
    assert abs(drawn.count("C") / 1000 - 0.7) < 3 * math.sqrt(0.21 / 1000)
