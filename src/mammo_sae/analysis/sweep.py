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
    from mammo_sae.analysis.settings import InterventionSettings

_BYTES = 128 << 20  # bytes of running sums in memory at a time


class Linear(Protocol):
    """The fields of `interventions.Edits` from which the curve is computed."""

    @property
    def contributions(self) -> np.ndarray:
        """Return the contribution of each latent to the logit of each image, [n, h]."""
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
    for ranking in settings.rankings:
        curves = sweep(data, edits.ranked_order(ranked, ranking))
        for mode, values in curves.items():
            keys = {"ranking": ranking, "mode": mode, "k": np.arange(len(values))}
            parts.append(pd.DataFrame({**keys, "auroc": values, "reason": ""}))
    return pd.concat(parts, ignore_index=True)


def sweep(data: Linear, order: np.ndarray) -> dict[str, np.ndarray]:
    """Return ``on`` and ``off`` [j + 1]: AUROC with the first 0 to j latents kept or dropped.

    j is the place of the last latent that contributes to any image's logit.
    """
    n = len(data.labels)
    working = np.flatnonzero((data.contributions != 0).any(axis=0)[order])
    last = int(working[-1]) + 1 if working.size else 0
    result = {mode: np.empty(last + 1) for mode in ("on", "off")}
    total = data.contributions.sum(axis=1)
    kept = np.zeros(n)
    result["on"][0], result["off"][0] = 0.5, _auroc(total[None], data.labels)[0]
    step = max(1, _BYTES // (8 * n))
    with ThreadPoolExecutor(2) as pool:  # most of the work is sorting, which releases Python's lock
        for start in range(0, last, step):
            chosen = order[start : min(start + step, last)]
            sums = kept + np.cumsum(data.contributions[:, chosen].T, axis=0)
            kept = sums[-1].copy()
            place = slice(start + 1, start + 1 + len(chosen))
            scores = pool.map(_auroc, (sums, total - sums), (data.labels, data.labels))
            result["on"][place], result["off"][place] = scores
    return result


def _auroc(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the AUROC [e] of logits [e, n]. Logits that differ only by rounding are ties."""
    return st.auroc(np.round(logits, edits.DIGITS).T, labels)
