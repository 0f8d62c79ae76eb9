"""The images of a phrase: those most similar to it, and what labels and latents say of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import exchange
from mammo_sae.analysis.mean_codes import MeanCodes

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import NamingSettings

BLOCK = 256  # latents of a phrase that are tested at a time
ESTIMATES = ("auroc", "auroc_low", "auroc_high", "p_images")


def zero_shot(
    settings: NamingSettings,
    table: pd.DataFrame,
    similarity: np.ndarray,
    cases: pd.DataFrame,
    labels: Mapping[str, str],
) -> pd.DataFrame:
    """Return how well the similarity to each phrase finds the images with its own label.

    Parameters
    ----------
    table
        The V phrases, with `label`.
    similarity : [n, V]
        Similarity of the images to the phrases.
    cases : n rows
        The images' rows of the image table.
    labels
        Concept -> its category. Other labels are columns of the image table.

    Returns
    -------
    `column` (the column of the image table; empty: none), `zero_shot_auroc` with its 95 %
    patient-bootstrap interval, and `zero_shot_reason` if it can't be estimated. A row per phrase.
    """
    of_category = {category: concept for concept, category in labels.items()}
    rows = []
    for place, label in enumerate(table["label"]):
        column = of_category.get(label, label if label in cases else "")
        rows.append(_zero_shot(settings, similarity[:, place], cases, column))
    return pd.DataFrame(rows)


def _zero_shot(
    settings: NamingSettings, similarity: np.ndarray, cases: pd.DataFrame, column: str
) -> dict[str, object]:
    names = ("zero_shot_auroc", "zero_shot_auroc_low", "zero_shot_auroc_high")
    empty: dict[str, object] = {"column": column, **dict.fromkeys(names, np.nan)}
    if not column:
        return {**empty, "zero_shot_reason": ""}
    values = pd.to_numeric(cases[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    known = np.flatnonzero(np.isin(values, (0, 1)))
    truth, patients = values[known] == 1, cases["patient_id"].to_numpy()[known]
    why = st.why_not_estimable(truth, patients)
    if why:
        return {**empty, "zero_shot_reason": why}
    drawn = st.PatientDraws(patients, settings.bootstrap_draws, settings.seed)
    low, high = st.interval(drawn.of(partial(st.auroc, similarity[known], truth)))
    found = (st.auroc(similarity[known], truth), low, high)
    return {**empty, **dict(zip(names, found, strict=True)), "zero_shot_reason": ""}


@dataclass(frozen=True)
class PhraseTests:
    """Tests of latents against the images of phrases, over the n confirmation images.

    Attributes
    ----------
    settings
        Share of the images that count as a phrase's, draws and seed.
    similarity : [n, V]
        Similarity of the images to the phrases.
    scores : n images, h latents
        The latents' scores.
    patients, sides : [n]
    """

    settings: NamingSettings
    similarity: np.ndarray
    scores: MeanCodes
    patients: np.ndarray
    sides: np.ndarray

    def images_of(self, phrase: int) -> np.ndarray:
        """Return whether each image is among those most similar to a phrase, bool [n]."""
        similar = self.similarity[:, phrase]
        if not len(similar):
            return np.zeros(0, bool)
        return similar >= np.quantile(similar, 1 - self.settings.share)

    def of(self, latents: np.ndarray, phrases: np.ndarray, family: int) -> pd.DataFrame:
        """Test each of m latents against the images of its phrase, [m] each.

        `family` is the number of p-values in the family of the q-values.

        Returns
        -------
        AUROC of the latent's score for the phrase's images, with its 95 % patient-bootstrap
        interval; `p_images`, two-sided; and `why`, the reason if they can't be estimated. A row per
        latent.
        """
        table = pd.DataFrame({name: np.full(len(latents), np.nan) for name in ESTIMATES})
        table["why"] = ""
        drawn = st.PatientDraws(self.patients, self.settings.bootstrap_draws, self.settings.seed)
        for phrase in np.unique(phrases):
            members = np.flatnonzero(phrases == phrase)
            truth = self.images_of(phrase)
            why = st.why_not_estimable(truth, self.patients)
            why = why or exchange.why_not_exchangeable(truth, self.patients, breasts=self.sides)
            if why:
                table.loc[members, "why"] = f"images most similar to the phrase: {why}"
                continue
            for start in range(0, len(members), BLOCK):
                some = members[start : start + BLOCK]
                scores = self.scores.of(latents[some]).T
                low, high = st.interval(drawn.of(partial(st.auroc, scores, truth)))
                # As many exchanges as if all m latents were tested together.
                tests = math.ceil(family * len(some) / len(latents))
                p = self._p(scores, truth, tests)
                for name, values in zip(
                    ESTIMATES, (st.auroc(scores, truth), low, high, p), strict=True
                ):
                    table.loc[some, name] = values
        return table

    def _p(self, scores: np.ndarray, truth: np.ndarray, tests: int) -> np.ndarray:
        result: np.ndarray = exchange.patient_permutation_p(
            scores,
            truth,
            self.patients,
            draws=self.settings.permutation_draws,
            seed=self.settings.seed,
            breasts=self.sides,
            tests=tests,
        )
        return result
