"""Predictions from ablated embeddings, by the encoder's own head and by refitted heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis.linear import Shares
from mammo_sae.regression.features import DenseRows, Matrix, Parts, Standardised
from mammo_sae.regression.penalised import balanced, best_fits, logistic

if TYPE_CHECKING:
    from mammo_sae.analysis.mean_codes import MeanCodes
    from mammo_sae.analysis.settings import AblationSettings

Predict = Callable[[np.ndarray], np.ndarray]  # ablated latents [k] -> scores [n]
NOTHING = np.empty(0, np.int64)


def without(share: Shares, original: np.ndarray) -> Predict:
    """Return a function that subtracts latents' contributions from the logits `original` [n]."""
    return lambda latents: original - share.weights[latents] @ share.means.of(latents)


class Refit:
    """Heads that are fitted on the discovery split's pooled embeddings, after an ablation.

    The penalty is chosen once, before any ablation, and all heads use it. So all differences
    between heads come from the ablated latents.

    Attributes
    ----------
    reason
        Why no head can be fitted, or ``""``.
    """

    def __init__(
        self,
        settings: AblationSettings,
        cases: pd.DataFrame,
        concept: str,
        pooled: Matrix,
        means: MeanCodes,
        atoms: np.ndarray,
    ) -> None:
        """Choose the penalty, from embeddings [n, d], mean codes of n images and atoms [h, d]."""
        self._pooled, self._means, self._atoms = pooled, means, atoms
        self._found = case.labelled_images(cases, concept, settings.discovery)
        self._truth = case.labels(cases, concept, self._found)
        # Scores of all images, and where those of each ablation are.
        self._scores, self._places = Parts(), dict[bytes, int]()
        patients = cases["patient_id"].to_numpy()[self._found]
        why = st.why_not_estimable(self._truth, patients)
        self.reason = f"{settings.discovery}: {why}" if why else ""
        if not why:
            own, *_ = self._standardised(NOTHING)
            penalties, folds, truths = settings.penalties, settings.folds, self._truth[:, None]
            everything = np.arange(len(self._found))
            [best] = best_fits(own, everything, truths, patients, penalties, folds, l1=False)
            self._penalty = best.penalty

    def of(self, rows: np.ndarray) -> Predict:
        """Return a function: latents [k] -> scores of the images at `rows`, as by `scores`."""
        return lambda latents: self.scores(latents)[rows]

    def scores(self, latents: np.ndarray) -> np.ndarray:
        """Return the scores [n] of all images by a head refitted after an ablation of `latents`."""
        key = latents.tobytes()
        if key not in self._places:
            features, kept, mean, spread = self._standardised(latents)
            truths, weights = self._truth[:, None], balanced(self._truth)[:, None]
            everything, penalty = np.arange(len(self._found)), np.array([self._penalty])
            directions, intercepts = logistic(features, everything, truths, weights, penalty)
            ablated = Ablated(self._pooled, self._means, latents, self._atoms)
            scores = Standardised(ablated, kept, mean, spread).times(directions)
            self._places[key] = len(self._scores)
            self._scores.append(scores[:, 0] + intercepts[0])
        return self._scores[self._places[key]]

    def _standardised(
        self, latents: np.ndarray
    ) -> tuple[DenseRows, np.ndarray, np.ndarray, np.ndarray]:
        """Return the features [m, f] of the images to fit on, and how they are standardised.

        A fit reads its features many times, so they are computed once.

        Returns
        -------
        features
        kept : [f]
            The channels that vary over these images.
        mean, spread : [f]
        """
        ablated = Ablated(self._pooled, self._means, latents, self._atoms, self._found)
        own = Standardised.over(ablated, np.arange(len(self._found)))
        order: list[int] = []

        def rows() -> Iterator[np.ndarray]:
            for images, block in ablated.blocks():
                order.extend(images)
                yield ((block[:, own.kept] - own.mean) / own.spread).astype(np.float32)

        return DenseRows(rows(), order, np.float32), own.kept, own.mean, own.spread


class Ablated(Matrix):
    """Embeddings [m, d] of some images without the contributions of `latents`.

    Parameters
    ----------
    embeddings : [n, d]
    means : n images, h latents
    latents : [k]
    atoms : [h, d]
    images : [m]
        The images, as positions among the n; None: all.
    """

    def __init__(
        self,
        embeddings: Matrix,
        means: MeanCodes,
        latents: np.ndarray,
        atoms: np.ndarray,
        images: np.ndarray | None = None,
    ) -> None:
        count, channels = embeddings.shape
        images = np.arange(count) if images is None else images
        self.shape = len(images), channels
        self._place = np.full(count, -1)  # of each image among those at `images`
        self._place[images] = np.arange(len(images))
        self._embeddings, self._means, self._latents = embeddings, means, latents
        self._atoms = atoms[latents].astype(np.float64)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (positions of images among the m, their values [b, d] in float64)."""
        for images, block in self._embeddings.blocks():
            here = self._place[images] >= 0
            if here.any():
                values, some = block[here], images[here]
                codes = self._means.of(self._latents, some)
                yield self._place[some], values - codes.T.astype(np.float64) @ self._atoms
