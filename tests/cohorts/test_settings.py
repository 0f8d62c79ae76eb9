from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from mammo_sae.cohorts.settings import CohortSettings, PhantomCohort, VindrCohort

COHORT = TypeAdapter(CohortSettings)


def test_the_kind_chooses_the_settings():
    assert isinstance(COHORT.validate_python({"kind": "phantom"}), PhantomCohort)
    vindr = COHORT.validate_python({"kind": "vindr", "source": "/data/vindr", "shards": 8})
    assert isinstance(vindr, VindrCohort)
    assert vindr.shards == 8


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "vindr"},
        {"kind": "vindr", "source": ""},
        {"kind": "phantom", "source": "x"},
        {"kind": "phantom", "shards": 0},
        {"kind": "phantom", "validation_share": 1.0},
        {"kind": "phantom", "concepts": {}},
        {"kind": "phantom", "concepts": {"Mass": "Mass"}},
        {"kind": "phantom", "covariates": {"view": "marker"}},
        {"kind": "phantom", "covariates": {"mass": "marker"}},
    ],
)
def test_settings_that_make_no_sense_are_refused(given):
    with pytest.raises(ValidationError):
        COHORT.validate_python(given)
