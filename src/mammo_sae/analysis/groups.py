"""AUROC within and between groups of images.

A group has the images with one label at one level of a confounder. Let

    auroc(a, b) = P(score of a positive image at level a > score of a negative image at level b)

with ties as one half (the cross-group AUROC of Kallus and Zhou 2019, arXiv 1902.05826). Then

- ``level``: auroc(a, a) of each level a;
- ``worst_stratum``: min over a of auroc(a, a), as in the table of confounds;
- ``worst_group``: min over a and b of auroc(a, b).

If a classifier adds a constant to the scores of images with a marker, auroc(a, a) does not change,
since all images of a level get the same constant. The errors are in pairs across levels: an image
with a marker and no lesion gets a higher score than one with a lesion and no marker. Only
`worst_group` contains these pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis.levels import Levels, levels
from mammo_sae.errors import counted

Named = dict[tuple[str, str], np.ndarray]  # (measure, level) -> values


@dataclass(frozen=True)
class Groups:
    """The levels of a confounder that can be scored, and the level of each image.

    Attributes
    ----------
    names
        Names of the levels.
    code : [n]
        The level of each image; -1 if it is unknown or can't be scored.
    """

    names: list[str]
    code: np.ndarray


def usable_levels(found: Levels, truth: np.ndarray, patients: np.ndarray) -> Groups:
    """Return the levels whose images [n] allow an AUROC for `truth`.

    If this is one level alone, with at least half of the images of a known level, and the images of
    all other levels together allow an AUROC, they become one level: its name is "not " and that of
    the frequent level. For example, a count of 0 to 5 may be 0 in most images.
    """

    def usable(rows: np.ndarray) -> bool:
        return not st.why_not_estimable(truth[rows], patients[rows])

    kept = [level for level in range(len(found.names)) if usable(found.code == level)]
    code = np.full(len(found.code), -1)
    for place, level in enumerate(kept):
        code[found.code == level] = place
    names = [found.names[level] for level in kept]
    known, frequent = found.code >= 0, code == 0
    rest = known & ~frequent
    if len(names) == 1 and 2 * frequent.sum() >= known.sum() and usable(rest):
        code[rest] = 1
        names.append(f"not {names[0]}")
    return Groups(names, code)


def too_few_levels(usable: int, confounder: str) -> str:
    """Return why `usable` levels of a confounder do not suffice, or ``""``."""
    if usable >= 2:
        return ""
    levels = counted(usable, f"level of {confounder} has", f"levels of {confounder} have")
    return (
        f"{levels} {st.MIN_POSITIVES} patients with a "
        f"positive image and {st.MIN_POSITIVES} with a negative one; two are needed"
    )


def groups_of(
    column: pd.Series, truth: np.ndarray, patients: np.ndarray, most: int
) -> tuple[Groups, str]:
    """Return the groups of a confounder's `column` [n] and the reason why they can't be scored.

    The reason is ``""`` if they can.
    """
    if column.isna().all():
        return Groups([], np.full(len(column), -1)), f"{column.name} is unknown for every image"
    found = levels(column, most)
    groups = usable_levels(found, truth, patients)
    return groups, too_few_levels(len(groups.names), str(column.name))


def group_auroc(
    scores: np.ndarray, truth: np.ndarray, groups: Groups, weights: np.ndarray | None = None
) -> np.ndarray:
    """Return auroc(a, b) of `scores` [n, m] for all pairs of k levels, [k, k, m].

    With `weights` [n, draws], the result is [k, k, m, draws].
    """
    count = len(groups.names)
    result = []
    for a in range(count):
        for b in range(count):
            pair = np.where(truth, groups.code == a, groups.code == b)
            drawn = None if weights is None else weights[pair]
            result.append(st.auroc(scores[pair], truth[pair], drawn))
    values = np.stack(result)
    return values.reshape(count, count, *values.shape[1:])


def named_scores(
    scores: np.ndarray, truth: np.ndarray, groups: Groups | None, weights: np.ndarray | None = None
) -> Named:
    """Return the AUROCs of `scores` [n, m] by (measure, level).

    Each value has shape [m], or [m, draws] with `weights` [n, draws]. Without groups, the only
    measure is ``auroc``, over all images.
    """
    if groups is None:
        return {("auroc", ""): st.auroc(scores, truth, weights)}
    pairs = group_auroc(scores, truth, groups, weights)
    within = pairs[np.arange(len(pairs)), np.arange(len(pairs))]
    # A draw without one of the groups gives NaN, and intervals leave such draws out.
    return {
        **{("level", name): within[i] for i, name in enumerate(groups.names)},
        ("worst_stratum", ""): within.min(axis=0),
        ("worst_group", ""): pairs.min(axis=(0, 1)),
    }


def worst_names(scores: np.ndarray, truth: np.ndarray, groups: Groups) -> tuple[str, str]:
    """Return the names of the worst stratum and of the worst group for `scores` [n]."""
    pairs = group_auroc(scores[:, None], truth, groups)[..., 0]
    a, b = np.unravel_index(pairs.argmin(), pairs.shape)
    worst = groups.names[int(pairs.diagonal().argmin())]
    return worst, f"{groups.names[int(a)]} positive, {groups.names[int(b)]} negative"
