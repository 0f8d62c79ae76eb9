"""Thresholds of edited logits, chosen on the discovery split.

An edit shifts and shrinks the logits, so the threshold 0 may call every image or none. Each edit
therefore also gets the threshold at which the F1 of the discovery images is largest (Lipton, Elkan
and Naryanaswamy 2014, arXiv 1402.1892). It is then used for the images of another split.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mammo_sae import statistics as st


class Editable(Protocol):
    """One concept's logits over n images, and their values when latents are dropped."""

    @property
    def labels(self) -> np.ndarray:
        """Return the label of each image, bool [n]."""
        ...

    @property
    def patients(self) -> np.ndarray:
        """Return the patient of each image, [n]."""
        ...

    @property
    def unknown(self) -> str:
        """Return why the latents' mean codes are not known, or ``""``."""
        ...

    def logits(self, kept: np.ndarray, splice: str) -> np.ndarray:
        """Return the logits [n, e] of `e` edits. `kept` [h, e] is True for latents that stay."""
        ...


class Thresholds:
    """The threshold of each edit, from the discovery images of one concept.

    Parameters
    ----------
    discovery
        The logits of the discovery images; None if the split has no image with a label.
    split
        Name of the discovery split.

    Attributes
    ----------
    reason
        Why no threshold can be chosen, or ``""``.
    images
        Number of the discovery images.
    """

    def __init__(self, discovery: Editable | None, split: str) -> None:
        self._discovery = discovery
        self._chosen: dict[tuple[str, bytes], float] = {}
        why = "no image with a label"
        if discovery is not None:
            why = st.why_not_estimable(discovery.labels, discovery.patients)
        self.images = 0 if discovery is None else len(discovery.labels)
        self.reason = why and f"no threshold, {split}: {why}"

    def of(self, kept: np.ndarray, splice: str, digits: int) -> np.ndarray:
        """Return the thresholds [e] of the edits `kept` [h, e]; NaN if there is a `reason`.

        An image is called positive if its logit, rounded to `digits` decimals, is at least the
        threshold. Thresholds that were chosen by an earlier call are not chosen again.
        """
        if self.reason or self._discovery is None:
            return np.full(kept.shape[1], np.nan)
        keys = [(splice, np.packbits(column).tobytes()) for column in kept.T]
        fresh = list({key: e for e, key in enumerate(keys) if key not in self._chosen}.values())
        if fresh:
            logits = self._discovery.logits(kept[:, fresh], splice)
            for e, values in zip(fresh, logits.T, strict=True):
                values = np.round(values, digits)
                self._chosen[keys[e]] = st.best_f1_threshold(values, self._discovery.labels)
        return np.array([self._chosen[key] for key in keys])
