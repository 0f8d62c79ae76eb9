"""The AUROC of the head's logits for every number of latents kept or dropped, 0 to h.

`mammo_sae.analysis.edits` scores a few numbers with intervals and controls. This module
computes the whole curve for a figure. Logits are running sums of the ranked latents' contributions,
so each number costs one sort and no pass through the network.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import edits

if TYPE_CHECKING:
    from mammo_sae.analysis.mean_codes import MeanCodes
    from mammo_sae.analysis.settings import InterventionSettings

_BYTES = 8 << 20  # bytes of running sums in memory at a time; scoring needs about ten times as much


class Linear(Protocol):
    """The fields of `interventions.Edits` from which the curve is computed."""

    @property
    def means(self) -> MeanCodes:
        """Return the mean codes of n images and h latents."""
        ...

    @property
    def weights(self) -> np.ndarray:
        """Return what each latent's mean code is multiplied by, [h]."""
        ...

    @property
    def total(self) -> np.ndarray:
        """Return the sum of all latents' contributions to each image's logit, [n]."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """Return the label of each image, bool [n]."""
        ...

    @property
    def patients(self) -> np.ndarray:
        """Return the patient of each image, [n]."""
        ...


def sweep_table(settings: InterventionSettings, data: Linear, ranked: pd.DataFrame) -> pd.DataFrame:
    """Return the curves of one concept and split, one row per (ranking, mode, k).

    The AUROC is that of spliced logits. The rows end at the smallest k that includes all latents
    that fire, since nothing changes after it. A split without enough positives or negatives has one
    row with the reason.
    """
    reason = st.why_not_estimable(data.labels, data.patients)
    if reason:
        empty = {"ranking": "", "mode": "", "k": 0, "auroc": np.nan, "reason": reason}
        return pd.DataFrame([empty])
    parts = []
    works = working(data)
    for ranking in settings.rankings:
        curves = sweep(data, works, edits.ranked_order(ranked, ranking))
        for mode, values in curves.items():
            keys = {"ranking": ranking, "mode": mode, "k": np.arange(len(values))}
            parts.append(pd.DataFrame({**keys, "auroc": values, "reason": ""}))
    return pd.concat(parts, ignore_index=True)


def working(data: Linear) -> np.ndarray:
    """Return bool [h]: whether each latent contributes to any image's logit."""
    result = data.weights != 0
    for latents, values in data.means.blocks():
        result[latents] &= values.any(axis=1)
    return result


def sweep(data: Linear, works: np.ndarray, order: np.ndarray) -> dict[str, np.ndarray]:
    """Return ``on`` and ``off`` [j + 1]: AUROC with the first 0 to j latents kept or dropped.

    j is the place of the last latent that `works` (`working`).
    """
    n = len(data.labels)
    places = np.flatnonzero(works[order])
    last = int(places[-1]) + 1 if places.size else 0
    result = {mode: np.empty(last + 1) for mode in ("on", "off")}
    total = data.total
    kept = np.zeros(n)
    result["on"][0], result["off"][0] = 0.5, _auroc(total[None], data.labels)[0]
    step = max(1, _BYTES // (8 * n))
    with ThreadPoolExecutor(2) as pool:  # most of the work is sorting, which releases Python's lock
        for start in range(0, last, step):
            chosen = order[start : min(start + step, last)]
            added = data.means.of(chosen).astype(np.float64) * data.weights[chosen, None]
            sums = kept + np.cumsum(added, axis=0)
            kept = sums[-1].copy()
            place = slice(start + 1, start + 1 + len(chosen))
            scores = pool.map(_auroc, (sums, total - sums), (data.labels, data.labels))
            result["on"][place], result["off"][place] = scores
    return result


def _auroc(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the AUROC [e] of logits [e, n]. Logits that differ only by rounding are ties."""
    return st.auroc(np.round(logits, edits.DIGITS).T, labels)
