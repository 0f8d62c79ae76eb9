"""Splits that a dataset does not come with: drawn by patient, stratified by what they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from mammo_sae.cohorts.pseudonyms import Pseudonyms

if TYPE_CHECKING:
    from mammo_sae.cohorts.settings import CohortSettings, SplitSettings


def splits_of_patients(
    labels: pd.DataFrame,
    concepts: Mapping[str, str],
    settings: CohortSettings | SplitSettings,
    pseudonyms: Pseudonyms,
) -> pd.Series:
    """Return the split of every patient, by the source's id of the patient.

    Parameters
    ----------
    labels
        As `mammo_sae.cohorts.annotations.Annotations.labels`.
    concepts
        Column of `labels` -> finding category. A concept's name has no part in who is drawn, nor
        has a second concept of the same category.
    settings
        Which shares are drawn; a cohort without `test_share` comes with a test split.
    pseudonyms
        Of the cohort.
    """
    column = {category: name for name, category in sorted(concepts.items())}
    own_test = (labels["split"] == "test").any()
    split = drawn_splits(
        labels,
        [column[category] for category in sorted(column)],
        pseudonyms,
        test_share=0.0 if own_test else getattr(settings, "test_share", 0.0),
        validation_share=settings.validation_share,
        seed=settings.split_seed,
    )
    return split.groupby(labels["source_patient"]).first()


def drawn_splits(
    images: pd.DataFrame,
    concepts: Sequence[str],
    pseudonyms: Pseudonyms,
    *,
    test_share: float,
    validation_share: float,
    seed: int,
) -> pd.Series:
    """Return the split of every image, with `test` and `validation` taken out of `training`.

    Parameters
    ----------
    images
        source_patient, split, and a 0/1 column per concept, NA unknown.
    concepts
        The strata are the patients who have, have not, or may have the same of these.
    pseudonyms
        Of the cohort: a keyed hash of the patient and the seed decides who is drawn.
    test_share
        Share of the training patients that become `test`.
    validation_share
        Share of the others that become `validation`.
    seed
        Another one draws other patients.

    Notes
    -----
    Of each stratum those patients are drawn whose hashes are lowest, so one that is added later
    moves at most one other into a split and one out of it. How many that are is rounded up or
    down by a hash too: strata of few patients then have the right share on average.
    """
    split = images["split"].copy()
    patients = images["source_patient"]

    def carve(name: str, share: float) -> None:
        training = split == "training"
        if share == 0 or not training.any():
            return
        has = images.loc[training, [*concepts]].astype("Float64").fillna(-1)
        # Labels of -1, 0 and 1: the largest is what is known of the patient.
        of_patient = has.groupby(patients[training]).max()
        strata = of_patient.apply(lambda row: str(row.tolist()), axis=1)
        for stratum, members in strata.groupby(strata).groups.items():
            ranked = sorted(members, key=lambda patient: pseudonyms.share(patient, seed))
            rounding = pseudonyms.share(f"{name} {stratum}", seed)
            split[patients.isin(ranked[: int(share * len(ranked) + rounding)])] = name

    carve("test", test_share)
    carve("validation", validation_share)
    return split
