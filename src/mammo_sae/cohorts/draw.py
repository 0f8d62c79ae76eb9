"""The draw of patients into splits that a dataset lacks, stratified by their labels."""

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
        Column of `labels` -> finding category. The name of a concept, or a second concept of the
        same category, does not affect the draw.
    settings
        The shares to draw. A cohort without `test_share` has its own test split.
    pseudonyms
        The pseudonyms of the cohort.
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
        source_patient, split, and a 0/1 column per concept, NA if unknown.
    concepts
        A stratum is a group of patients with equal labels (present, absent or unknown) for all of
        these.
    pseudonyms
        The pseudonyms of the cohort. A keyed hash of the patient and the seed decides who is drawn.
    test_share
        Share of the training patients that become `test`.
    validation_share
        Share of the other training patients that become `validation`.
    seed
        Seed of the draw.

    Notes
    -----
    In each stratum the patients with the lowest hashes are drawn, so a patient who is added later
    moves at most one other patient into a split and one out of it. A hash also decides whether the
    number of patients to draw is rounded up or down, so that small strata have the right share on
    average.
    """
    split = images["split"].copy()
    patients = images["source_patient"]

    def carve(name: str, share: float) -> None:
        training = split == "training"
        if share == 0 or not training.any():
            return
        has = images.loc[training, [*concepts]].astype("Float64").fillna(-1)
        # Labels are -1 (unknown), 0 and 1. The largest label of the images is the label of the
        # patient.
        of_patient = has.groupby(patients[training]).max()
        strata = of_patient.apply(lambda row: str(row.tolist()), axis=1)
        for stratum, members in strata.groupby(strata).groups.items():
            ranked = sorted(members, key=lambda patient: pseudonyms.share(patient, seed))
            rounding = pseudonyms.share(f"{name} {stratum}", seed)
            split[patients.isin(ranked[: int(share * len(ranked) + rounding)])] = name

    carve("test", test_share)
    carve("validation", validation_share)
    return split
