"""Sets of latents to ablate: those with a verdict, and random ones with similar firing rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mammo_sae.analysis.edits import MATCHED_BLOCK
from mammo_sae.analysis.verdict import ALIGNED, CONFOUNDED, MIXED, SEVERITY

ALL = "all"  # all confounders together
SUSPECTED = ((CONFOUNDED,), (CONFOUNDED, MIXED))


@dataclass(frozen=True)
class LatentSet:
    """The latents that have one of the given verdicts.

    Attributes
    ----------
    concept
        The concept of the verdicts.
    called_for
        The confounder of the verdicts, or `ALL`.
    verdicts
        The verdicts, joined by commas.
    latents : [k]
        Indices of the latents, ascending.
    """

    concept: str
    called_for: str
    verdicts: str
    latents: np.ndarray

    @property
    def why_empty(self) -> str:
        """Return the reason why the set has no latent, or ``""``."""
        if len(self.latents):
            return ""
        confounder = "any confounder" if self.called_for == ALL else self.called_for
        beside = "" if self.verdicts == ALIGNED else f" for {confounder}"
        return f"no latent of {self.concept} is {self.verdicts.replace(', ', ' or ')}{beside}"


def severest(confounds: pd.DataFrame, concept: str) -> pd.Series:
    """Return the most severe verdict over all confounders, by latent, from one SAE's table."""
    rows = confounds[confounds["concept"] == concept]
    places = rows["verdict"].map({word: i for i, word in enumerate(SEVERITY)})
    return places.groupby(rows["latent"]).min().map(dict(enumerate(SEVERITY)))


def suspected_sets(confounds: pd.DataFrame, concept: str) -> Iterator[LatentSet]:
    """Yield a concept's sets of suspected latents, for all confounders together and for each one.

    For all confounders together, a latent's verdict is the most severe one.
    """
    rows = confounds[confounds["concept"] == concept]
    by_confounder = {ALL: severest(confounds, concept)}
    for name, part in rows.groupby("confounder", sort=True):
        by_confounder[str(name)] = part.set_index("latent")["verdict"]
    for name, verdicts in by_confounder.items():
        for words in SUSPECTED:
            yield _set(concept, name, words, verdicts)


def aligned_set(confounds: pd.DataFrame, concept: str) -> LatentSet:
    """Return the latents whose most severe verdict is ``concept-aligned``."""
    return _set(concept, ALL, (ALIGNED,), severest(confounds, concept))


def _set(concept: str, name: str, words: Sequence[str], verdicts: pd.Series) -> LatentSet:
    latents = np.sort(verdicts.index[verdicts.isin(words)].to_numpy(dtype=np.int64))
    return LatentSet(concept, name, ", ".join(words), latents)


def similar_sets(
    latents: np.ndarray, firing: np.ndarray, alive: np.ndarray, count: int, seed: int
) -> list[np.ndarray]:
    """Return `count` random sets, each with as many latents as `latents` [k].

    The firing rates are similar: each latent is replaced by one of the `MATCHED_BLOCK` latents
    nearest to it in the order of firing rates. Only latents that are alive, not in `latents` and
    not yet in the set are drawn. If there are fewer than k such latents, no set is returned.

    Parameters
    ----------
    latents : [k]
    firing : [h]
        Firing rates in the discovery split.
    alive : [h] bool
        Whether a latent's score varies in the discovery split.
    """
    outside = alive.copy()
    outside[latents] = False
    pool = np.flatnonzero(outside)
    if len(pool) < len(latents):
        return []
    rng = np.random.default_rng(seed)
    pool = pool[np.argsort(firing[pool], kind="stable")]
    place = np.searchsorted(firing[pool], firing[latents])
    sets = []
    for _ in range(count):
        free = np.arange(len(pool))
        drawn = []
        for target in rng.permutation(place):
            near = np.argsort(np.abs(free - target), kind="stable")[:MATCHED_BLOCK]
            taken = rng.choice(near)
            drawn.append(free[taken])
            free = np.delete(free, taken)
        sets.append(np.sort(pool[drawn]))
    return sets
