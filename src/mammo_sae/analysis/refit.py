"""Predictions from ablated embeddings, by the encoder's own head and by refitted heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis.linear import Shares
from mammo_sae.analysis.penalised import best_fit, ridge

if TYPE_CHECKING:
    from mammo_sae.analysis.mean_codes import MeanCodes
    from mammo_sae.analysis.settings import AblationSettings

BLOCK_BYTES = 32 << 20  # bytes of ablated embeddings in memory at a time
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
        pooled: np.ndarray,
        means: MeanCodes,
        atoms: np.ndarray,
    ) -> None:
        """Choose the penalty, from embeddings [n, d], mean codes of n images and atoms [h, d]."""
        self._pooled, self._means, self._atoms = pooled, means, atoms
        # Blocks of BLOCK_BYTES in float64.
        self._step = max(1, BLOCK_BYTES // (8 * pooled.shape[1]))
        self._found = case.labelled_images(cases, concept, settings.discovery)
        self._truth = case.labels(cases, concept, self._found)
        self._done: dict[bytes, np.ndarray] = {}
        patients = cases["patient_id"].to_numpy()[self._found]
        why = st.why_not_estimable(self._truth, patients)
        self.reason = f"{settings.discovery}: {why}" if why else ""
        if not why:
            own, *_ = self._standardised(NOTHING)
            penalties, folds = settings.penalties, settings.folds
            self._penalty, _ = best_fit(own, self._truth, patients, penalties, folds, ridge)

    def of(self, rows: np.ndarray) -> Predict:
        """Return a function: latents [k] -> scores of the images at `rows`, as by `scores`."""
        return lambda latents: self.scores(latents)[rows]

    def scores(self, latents: np.ndarray) -> np.ndarray:
        """Return the scores [n] of all images by a head refitted after an ablation of `latents`."""
        key = latents.tobytes()
        if key not in self._done:
            features, varies, mean, spread = self._standardised(latents)
            fitted = ridge(self._penalty).fit(features, self._truth)
            del features
            scores = np.empty(len(self._pooled))
            for rows, values in self._ablated(latents, np.arange(len(self._pooled))):
                scores[rows] = fitted.decision_function((values[:, varies] - mean) / spread)
            self._done[key] = scores
        return self._done[key]

    def _standardised(
        self, latents: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the features of the images to fit on, and how they are standardised.

        Features that do not vary over these images are left out.

        Returns
        -------
        features : [n, f]
        varies : [d] bool
            The channels that are features.
        mean, spread : [f]
        """
        features = np.empty((len(self._found), self._pooled.shape[1]))
        for rows, values in self._ablated(latents, self._found):
            features[rows] = values
        mean, spread = st.centre(features)
        varies = spread > 1e-12
        if not varies.all():
            features = features[:, varies]
        features /= spread[varies]
        return features, varies, mean[varies], spread[varies]

    def _ablated(
        self, latents: np.ndarray, images: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (rows, float64 [b, d]): the embeddings of `images` without `latents`, in blocks."""
        codes, atoms = self._means.of(latents), self._atoms[latents]
        for start in range(0, len(images), self._step):
            rows = slice(start, start + self._step)
            some = images[rows]
            yield rows, self._pooled[some] - codes[:, some].T.astype(np.float64) @ atoms
