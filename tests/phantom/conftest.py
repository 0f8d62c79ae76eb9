from __future__ import annotations

import dataclasses

import pytest

from mammo_sae.phantom.plan import Patient, plan_patient
from mammo_sae.phantom.settings import PatientCounts, PhantomPartSettings, PhantomSettings

EVERYTHING = frozenset({"marker", "vendor", "paddle"})


@pytest.fixture(scope="session")
def small() -> PhantomSettings:
    """Images of a quarter of the reference size, of few patients."""
    return PhantomSettings(
        height=96, width=64, patients=PatientCounts(training=6, test=4, external=5)
    )


@pytest.fixture(scope="session")
def training(small) -> PhantomPartSettings:
    return small.part("training")


@pytest.fixture(scope="session")
def full_size() -> PhantomPartSettings:
    return PhantomSettings().part("training")


@pytest.fixture(scope="session")
def afflicted():
    """Return a function: a patient with a mass, a cluster and every artefact."""

    def find(settings: PhantomPartSettings, skip: int = 0) -> Patient:
        for number in range(10_000):
            patient = plan_patient(settings, number)
            if patient.mass is not None and patient.cluster is not None:
                if skip == 0:
                    return dataclasses.replace(patient, artefacts=EVERYTHING)
                skip -= 1
        raise AssertionError("no patient has both findings")

    return find
