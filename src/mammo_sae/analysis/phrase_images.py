"""The images of a phrase: those most similar to it, and what labels and latents say of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import exchange
from mammo_sae.analysis.joint_images import cosine_blocks
from mammo_sae.analysis.mean_codes import MeanCodes
from mammo_sae.regression.features import DenseRows

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import NamingSettings

BLOCK, VALUES = 256, 1 << 20  # latents of a phrase, and their scores, that are tested at a time
INTERVAL = ("auroc", "auroc_low", "auroc_high")


def similarities(embedded: DenseRows, contrasts: np.ndarray, folder: Path) -> MeanCodes:
    """Return the similarity of n images to V phrases, phrase by phrase, in a file in `folder`.

    Parameters
    ----------
    embedded : n images, d dimensions
        The images in the joint space, of length 1.
    contrasts : [V, d]
        The phrases, of length 1.

    Raises
    ------
    InputError
        If the disk has no room for the file.
    """
    order = [np.empty(0, np.int64)]

    def blocks() -> Iterator[np.ndarray]:
        for images, cosines in cosine_blocks(embedded, contrasts):
            order.append(images)
            yield cosines

    written = MeanCodes.write(blocks(), embedded.shape[0], folder)
    return written.at(np.argsort(np.concatenate(order)))


def zero_shot(
    settings: NamingSettings,
    table: pd.DataFrame,
    similarity: MeanCodes,
    cases: pd.DataFrame,
    labels: Mapping[str, str],
) -> pd.DataFrame:
    """Return how well the similarity to each phrase finds the images with its own label.

    Parameters
    ----------
    table
        The V phrases, with `label`.
    similarity : n images, V phrases
        Similarity of the images to the phrases, from `similarities`.
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
        rows.append(_zero_shot(settings, similarity, place, cases, column))
    return pd.DataFrame(rows)


def _zero_shot(
    settings: NamingSettings, similarity: MeanCodes, phrase: int, cases: pd.DataFrame, column: str
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
    similar = similarity.of(np.array([phrase]), known)[0]
    drawn = st.PatientDraws(patients, settings.bootstrap_draws, settings.seed)
    low, high = st.interval(drawn.of(partial(st.auroc, similar, truth)))
    found = (st.auroc(similar, truth), low, high)
    return {**empty, **dict(zip(names, found, strict=True)), "zero_shot_reason": ""}


@dataclass(frozen=True)
class PhraseTests:
    """Tests of latents against the images of phrases, over the n confirmation images.

    Attributes
    ----------
    settings
        Share of the images that count as a phrase's, draws and seed.
    similarity : n images, V phrases
        Similarity of the images to the phrases, from `similarities`.
    scores : n images, h latents
        The latents' scores.
    patients, sides : [n]
    """

    settings: NamingSettings
    similarity: MeanCodes
    scores: MeanCodes
    patients: np.ndarray
    sides: np.ndarray

    def images_of(self, phrase: int) -> np.ndarray:
        """Return whether each image is among those most similar to a phrase, bool [n]."""
        similar = self.similarity.of(np.array([phrase]))[0]
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
        columns = (*INTERVAL, "p_images")
        table = pd.DataFrame({name: np.full(len(latents), np.nan) for name in columns})
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
            step = max(1, min(BLOCK, VALUES // len(truth)))
            blocks = [members[start : start + step] for start in range(0, len(members), step)]
            for some in blocks:
                scores = self.scores.of(latents[some]).T
                low, high = st.interval(drawn.of(partial(st.auroc, scores, truth)))
                for name, values in zip(
                    INTERVAL, (st.auroc(scores, truth), low, high), strict=True
                ):
                    table.loc[some, name] = values
            # As many exchanges as if all m latents were tested together.
            tests = math.ceil(family * len(members) / len(latents))
            numbers = [latents[some] for some in blocks]
            table.loc[members, "p_images"] = self._p(numbers, truth, tests)
        return table

    def _p(self, blocks: Sequence[np.ndarray], truth: np.ndarray, tests: int) -> np.ndarray:
        """Return the p-values of `blocks` of latents, in their order."""
        return exchange.streamed_permutation_p(
            lambda some: self.scores.of(some).T,
            blocks,
            truth,
            self.patients,
            draws=self.settings.permutation_draws,
            seed=self.settings.seed,
            breasts=self.sides,
            tests=tests,
        )
