"""The main latents of a concept: those over which an SAE splits it.

Latents are ordered by their weights in an L1 logistic regression, positive weights only. Probes are
fitted on the first 1, 2, ... of them (k-sparse probing, Gurnee et al., arXiv 2305.01610). The main
latents are the first k, for the smallest k after which one more latent raises the probe's F1 by
less than `LEAST_GAIN`. This is feature splitting as Chanin et al. (2024, arXiv 2409.14507) define
it, with the limits of SAEBench (Karvonen et al. 2025, arXiv 2503.09532).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mammo_sae import statistics as st
from mammo_sae.regression.features import DenseRows, Standardised, row_blocks
from mammo_sae.regression.penalised import balanced, patient_folds, ridge, sparse_logistic

MOST_MAIN = 10
"""The largest k of the k-sparse probes."""
LEAST_GAIN = 0.03
"""The least gain in F1 for which a concept counts as split over one more latent."""
_ORDER_PENALTY = 0.1  # scikit-learn's C of the L1 regression, as in the table `latents`
_PROBE_PENALTY = 1.0  # k coefficients for hundreds of images need little shrinkage


def ordered(codes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return at most `MOST_MAIN` columns of `codes` [n, m] that predict `truth` [n], best first.

    The order is that of the weights in an L1 logistic regression on the standardised columns.
    Columns without a positive weight are left out.
    """
    varies = np.flatnonzero(codes.std(axis=0, dtype=np.float64) > 1e-12)
    if not len(varies):
        return varies
    everything, penalty = np.arange(len(codes)), np.array([_ORDER_PENALTY])
    values = Standardised.over(DenseRows(row_blocks(codes[:, varies])), everything)
    balance = balanced(truth)[:, None]
    weights, _ = sparse_logistic(values, everything, truth[:, None], balance, penalty)
    weight = weights[:, 0]
    order = np.argsort(-weight, kind="stable")[:MOST_MAIN]
    return varies[order[weight[order] > 0]]


def cross_validated_f1(
    codes: np.ndarray, truth: np.ndarray, patients: np.ndarray, folds: int
) -> list[float]:
    """Return the F1 of probes on the first 1, 2, ... columns of `codes` [n, k].

    The probe that calls an image, and its threshold, are fitted on other patients.
    """
    result = []
    for k in range(1, codes.shape[1] + 1):
        called = np.zeros(len(truth))
        for train, held in patient_folds(patients, folds):
            if truth[train].any() and not truth[train].all():
                called[held] = calls(codes[train, :k], truth[train], codes[held, :k])
        result.append(st.precision_recall_f1(called, truth)[2])
    return result


def main_count(f1: Sequence[float]) -> int:
    """Return how many latents a concept is split over, from the F1 of probes on 1, 2, ... latents.

    It is the smallest k after which the next latent gains less than `LEAST_GAIN`.
    """
    count = 1
    while count < len(f1) and f1[count] - f1[count - 1] >= LEAST_GAIN:
        count += 1
    return count


def calls(known: np.ndarray, truth: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """Return 1.0 for each row of `fresh` [m, k] that a probe calls positive, else 0.0.

    The probe is fitted on `known` [n, k] with the labels `truth` [n]. Its threshold has the largest
    F1 on these.
    """
    mean, spread = known.mean(axis=0, dtype=np.float64), known.std(axis=0, dtype=np.float64)
    spread = np.where(spread > 1e-12, spread, 1.0)
    model = ridge(_PROBE_PENALTY).fit((known - mean) / spread, truth)
    threshold = st.best_f1_threshold(model.decision_function((known - mean) / spread), truth)
    return (model.decision_function((fresh - mean) / spread) >= threshold).astype(np.float64)
