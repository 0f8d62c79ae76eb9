"""The choice of a penalty by cross-validation over patients."""

from __future__ import annotations

import numpy as np

from mammo_sae.analysis.penalised import best_fit, patient_folds, ridge


def test_a_fold_with_one_positive_patient_counts_in_the_choice():
    """With a strength of 1e-300 all weights are 0, so all scores of a held-out fold are equal."""
    rng = np.random.default_rng(5)
    patients = np.arange(60)
    truth = np.zeros(60, dtype=bool)
    for _, held in patient_folds(patients, 2):
        truth[held[0]] = True
    features = rng.normal(size=(60, 5))
    features[truth, 0] += 8
    strengths = (1e-300, 1.0)
    for penalties in (strengths, strengths[::-1]):
        assert best_fit(features, truth, patients, penalties, 2, ridge)[0] == 1.0
