"""Parts that all analyses of an SAE use: its identity, its images, their labels and its latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.cohorts import labels as scored
from mammo_sae.errors import InputError
from mammo_sae.stores.tables import read_table

IDENTITY = ("encoder", "layer", "sae", "seed")


@dataclass(frozen=True)
class Identity:
    """The SAE that a row of a table belongs to."""

    encoder: str
    layer: str
    sae: str
    seed: int

    def label(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return `frame` with the identity as its first columns."""
        result = frame.copy()
        for place, (name, value) in enumerate(asdict(self).items()):
            result.insert(place, name, value)
        return result


def read_cases(images: Path, image_ids: Sequence[str]) -> pd.DataFrame:
    """Return the image table's rows of `image_ids`, in that order.

    Raises
    ------
    InputError
        If an image is not in the table.
    """
    table = read_table(images)
    if table["image_id"].duplicated().any():
        twice = table.loc[table["image_id"].duplicated(), "image_id"].iloc[0]
        raise InputError(f"{images}: image {twice} has two rows; rebuild the cohort")
    position = pd.Index(table["image_id"]).get_indexer(list(image_ids))
    if (position < 0).any():
        missing = image_ids[int(np.flatnonzero(position < 0)[0])]
        raise InputError(f"{images}: image {missing} has codes but no row; rebuild the codes")
    return table.iloc[position].reset_index(drop=True)


def labelled(cases: pd.DataFrame, concept: str, split: str) -> np.ndarray:
    """Return the positions of the images of `split` whose label for `concept` is known.

    With labels by finding, an image has one position per row (`mammo_sae.cohorts.labels`), so
    counts of positions are counts of rows. `labelled_images` gives each image once.

    Raises
    ------
    InputError
        If the image table has no column of that concept.
    """
    if concept not in cases:
        raise InputError(f"the image table has no concept {concept!r}; correct the config's list")
    positions = scored.labelled(cases, concept)
    return positions[(cases["split"] == split).to_numpy(dtype=bool)[positions]]


def labelled_images(cases: pd.DataFrame, concept: str, split: str) -> np.ndarray:
    """Return the positions that `labelled` returns, with each image once.

    The label of an image is 1 if any of its rows is positive.
    """
    return np.unique(labelled(cases, concept, split))


def labels(cases: pd.DataFrame, concept: str, positions: np.ndarray) -> np.ndarray:
    """Return the labels, bool [n], at `positions` from `labelled` or `labelled_images`."""
    return scored.truth(cases, concept, positions)


def whole_patients(patients: np.ndarray, known: np.ndarray, most: int) -> np.ndarray:
    """Return the positions, among `known`, of the images of the first patients.

    As many whole patients are taken as have at most `most` images together. The array `patients`
    holds the patient of every image.
    """
    order = pd.unique(patients[known])
    counts = pd.Series(patients[known]).value_counts().reindex(order).cumsum()
    taken = counts.index[counts <= most]
    return known[np.isin(patients[known], taken)]


def units(
    cases: pd.DataFrame, unit: str, concepts: Sequence[str]
) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the breast or patient of each image, int [n], and the table [u] of these units.

    A unit's label is 1 if one of its images is positive. Otherwise it is unknown if the label of
    any image is unknown, and 0 if all labels are known. The unit's other columns come from its
    first image, except that a breast's view and a patient's side and view are empty.
    """
    keys = ["split", "patient_id", *(["side"] if unit == "breast" else [])]
    member = cases.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    _, first = np.unique(member, return_index=True)
    table = cases.iloc[first].reset_index(drop=True)
    table["view"] = ""
    if unit == "patient":
        table["side"] = ""
    for concept in concepts:
        if concept in cases:
            grouped = cases[concept].groupby(member)
            label = grouped.max().astype("Int8")
            unknown = (label != 1).fillna(True) & cases[concept].isna().groupby(member).any()
            table[concept] = label.mask(unknown).to_numpy(dtype=object)
            table[concept] = table[concept].astype("Int8")
    return member, table


def pool(values: np.ndarray, member: np.ndarray, how: str) -> np.ndarray:
    """Return [u, m]: the max or mean of `values` [n, m] over the images of each unit."""
    order = np.argsort(member, kind="stable")
    starts = np.flatnonzero(np.diff(member[order], prepend=-1))
    if how == "max":
        return np.maximum.reduceat(values[order], starts, axis=0)
    counts = np.diff(np.append(starts, len(member)))[:, None].astype(values.dtype)
    return np.add.reduceat(values[order], starts, axis=0) / counts


def top_latents(
    latents: pd.DataFrame, concept: str, rankings: Sequence[str], count: int
) -> np.ndarray:
    """Return the latents among the `count` best for `concept` by any of `rankings`, ascending.

    `latents` is the table that the step `latents` wrote. Its ranks come from the discovery split.
    """
    rows = latents[latents["concept"] == concept]
    chosen = np.zeros(len(rows), dtype=bool)
    for ranking in rankings:
        chosen |= (rows[f"rank_{ranking}"] <= count).to_numpy(dtype=bool, na_value=False)
    return np.sort(rows["latent"].to_numpy()[chosen])
