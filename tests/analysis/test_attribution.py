from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mammo_sae.analysis.attribution import attribution_table
from mammo_sae.analysis.settings import InnerSettings


@dataclass
class Edits:
    """Effects of five latents on 40 images; ablation equals attribution plus noise."""

    labels: np.ndarray
    effects: np.ndarray
    patients: np.ndarray

    def attribution(self) -> np.ndarray:
        return self.effects

    def ablation(self, latents: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(1).normal(size=(40, len(latents))) * 0.05
        return self.effects[:, latents] + noise


def made(positives: int) -> Edits:
    labels = np.arange(40) < positives
    effects = np.random.default_rng(0).normal(size=(40, 5)) * 0.1
    effects[:, 2] += 3.0 * labels
    effects[:, 4] = 0.0
    return Edits(labels, effects, np.arange(40) // 2)


def test_the_latents_of_largest_attribution_are_ablated_and_agree():
    table = attribution_table(InnerSettings(ablated=2, bootstrap_draws=50), made(20))
    table = table.set_index("latent")
    assert 4 not in table.index
    assert table["rank_attribution"].idxmin() == 2
    assert table["ablation"].notna().sum() == 2
    assert table.loc[2, "attribution_low"] < table.loc[2, "attribution"]
    assert table["agreement"].iloc[0] > 0.95


def test_too_few_positives_leave_no_number_and_ablate_nothing():
    table = attribution_table(InnerSettings(ablated=2, bootstrap_draws=50), made(18))
    numbers = ["attribution", "attribution_low", "attribution_high", "ablation", "agreement"]
    assert table[numbers].isna().all(axis=None)
    assert table["rank_attribution"].isna().all()
    assert (table["reason"] == "9 patients with a positive image, fewer than 10").all()
