"""AUROCs of one head's scores in one split, before and after an ablation of latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mammo_sae.analysis.edits import DIGITS
from mammo_sae.analysis.groups import Groups, Named, groups_of, named_scores, worst_names
from mammo_sae.analysis.refit import Predict
from mammo_sae.statistics import PatientDraws


@dataclass(frozen=True)
class Scored:
    """The n images of a split with a label for a concept.

    Attributes
    ----------
    labels : [n] bool
    patients : [n]
    groups
        Confounder -> its groups and the reason why they can't be scored, or ``""``.
    """

    labels: np.ndarray
    patients: np.ndarray
    groups: Mapping[str, tuple[Groups, str]]

    @classmethod
    def by_level(
        cls, confounders: pd.DataFrame, labels: np.ndarray, patients: np.ndarray, most: int
    ) -> Scored:
        """Return images, grouped by at most `most` levels of each column of `confounders`."""
        return cls(
            labels,
            patients,
            {
                name: groups_of(confounders[name], labels, patients, most)
                for name in confounders.columns
            },
        )


class Measures:
    """AUROCs of one head in one split. Scores and bootstrap draws are computed once and kept."""

    def __init__(self, data: Scored, predict: Predict, draws: PatientDraws) -> None:
        self._data, self._predict, self._draws = data, predict, draws
        self._scores: dict[bytes, np.ndarray] = {}
        self._drawn: dict[tuple[str, bytes], Named] = {}

    def scores(self, latents: np.ndarray) -> np.ndarray:
        """Return the scores [n, 1] with `latents` [k] ablated."""
        key = latents.tobytes()
        if key not in self._scores:
            self._scores[key] = np.round(self._predict(latents), DIGITS)[:, None]
        return self._scores[key]

    def values(self, latents: np.ndarray, confounder: str) -> Named:
        """Return the value [1] of each (measure, level), for the groups of `confounder`."""
        return named_scores(self.scores(latents), self._data.labels, self._groups(confounder))

    def draws(self, latents: np.ndarray, confounder: str) -> Named:
        """Return the values [1, draws] of each (measure, level) in all bootstrap draws."""
        key = confounder, latents.tobytes()
        if key not in self._drawn:
            scores, groups = self.scores(latents), self._groups(confounder)
            self._drawn[key] = self._draws.of(
                lambda weights: named_scores(scores, self._data.labels, groups, weights)
            )
        return self._drawn[key]

    def worst(self, latents: np.ndarray, confounder: str) -> dict[str, str]:
        """Return the level of the measure worst_stratum and the pair of levels of worst_group."""
        groups = self._groups(confounder)
        if groups is None:
            return {}
        names = worst_names(self.scores(latents)[:, 0], self._data.labels, groups)
        return dict(zip(("worst_stratum", "worst_group"), names, strict=True))

    def _groups(self, confounder: str) -> Groups | None:
        return self._data.groups[confounder][0] if confounder else None
