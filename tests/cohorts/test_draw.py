from __future__ import annotations

import pandas as pd
import pytest

from mammo_sae.cohorts.draw import drawn_splits
from mammo_sae.cohorts.pseudonyms import Pseudonyms

PSEUDONYMS = Pseudonyms(b"any")


def cohort(patients: int, rare: int = 20) -> pd.DataFrame:
    """Two images per patient; one of `rare` patients has a mass, in one of the two."""
    rows = [
        (f"p{n}", "training", int(n % rare == 0 and image == 0))
        for n in range(patients)
        for image in range(2)
    ]
    return pd.DataFrame(rows, columns=["source_patient", "split", "mass"])


def drawn(images: pd.DataFrame, **given) -> pd.Series:
    """Return the split of each patient."""
    settings = {"test_share": 0.2, "validation_share": 0.25, "seed": 0, **given}
    split = drawn_splits(images, ["mass"], PSEUDONYMS, **settings)
    of_patient = split.groupby(images["source_patient"])
    assert of_patient.nunique().max() == 1
    return of_patient.first()


def test_the_same_share_of_patients_with_and_without_a_concept_is_drawn():
    images = cohort(400)
    split = drawn(images)
    ill = images.groupby("source_patient")["mass"].max() == 1
    # 20 patients with a mass and 380 without: a fifth, then a quarter of the rest.
    for stratum, test, validation in ((ill, 4, 4), (~ill, 76, 76)):
        counts = split[stratum].value_counts()
        assert abs(counts["test"] - test) <= 1
        assert abs(counts["validation"] - validation) <= 1


def test_unknown_labels_are_a_stratum_of_their_own():
    images = cohort(400, rare=2)
    images["mass"] = images["mass"].astype("Int8")
    unknown = images["source_patient"].isin([f"p{n}" for n in range(100)])
    images.loc[unknown, "mass"] = None
    split = drawn(images)
    assert abs((split[[f"p{n}" for n in range(100)]] == "test").sum() - 20) <= 1


def test_only_training_patients_are_drawn():
    images = cohort(100)
    own = images["source_patient"].isin([f"p{n}" for n in range(30)])
    images.loc[own, "split"] = "test"
    split = drawn(images, test_share=0.0, validation_share=0.5)
    assert (split[[f"p{n}" for n in range(30)]] == "test").all()
    assert (split == "test").sum() == 30
    assert abs((split == "validation").sum() - 35) <= 2


def test_another_seed_draws_other_patients_and_the_same_seed_the_same():
    images = cohort(200)
    first, again, other = (drawn(images, seed=seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert (first != other).mean() > 0.2
    assert abs((other == "test").sum() - 40) <= 2


def test_a_patient_who_is_added_moves_few_others():
    few, more = drawn(cohort(200)), drawn(cohort(201))
    assert (few != more[few.index]).sum() <= 3


@pytest.mark.parametrize("size", [1, 2, 3])
def test_small_strata_have_their_share_on_average(size):
    shares = [
        (drawn(cohort(size), seed=seed, validation_share=0.0) == "test").mean()
        for seed in range(300)
    ]
    assert abs(sum(shares) / 300 - 0.2) < 0.06


def test_without_training_patients_nothing_is_drawn():
    images = cohort(10).assign(split="external")
    assert (drawn(images) == "external").all()
