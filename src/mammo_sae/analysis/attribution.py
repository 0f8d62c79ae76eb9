"""Each latent's effect on a prediction, at any layer: attribution, checked by ablation.

Attribution patching gives every latent's effect on a logit to first order, from one backward pass.
The latents with the largest effects are then ablated with the SAE's error kept, and the rest of the
network is run. The columns ``attribution`` and ``ablation`` estimate the same amount by these two
methods: what the latent adds to the logit, as the mean over the concept's positive images minus the
mean over its negative images. ``agreement`` is the Pearson correlation of the two estimates, over
all pairs of an image and an ablated latent.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis.patching import Reruns

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import InnerSettings


def attribution_table(settings: InnerSettings, edits: Reruns) -> pd.DataFrame:
    """Return one concept's rows, one per latent that fires in the images of `edits`."""
    truth, patients = edits.labels, edits.patients
    reason = st.why_not_estimable(truth, patients)
    attributed = edits.attribution()
    fires = np.flatnonzero((attributed != 0).any(axis=0))
    difference, low, high = _difference(settings, attributed[:, fires], truth, patients)
    table = pd.DataFrame(
        {
            "latent": fires,
            "attribution": difference,
            "attribution_low": low,
            "attribution_high": high,
        }
    )
    order = table["attribution"].abs()
    tested = order.nlargest(0 if reason else settings.ablated).index
    ablated = edits.ablation(fires[tested])
    for name, values in zip(
        ("ablation", "ablation_low", "ablation_high"),
        _difference(settings, ablated, truth, patients),
        strict=True,
    ):
        table[name] = np.nan
        table.loc[tested, name] = values
    together = attributed[:, fires[tested]].ravel(), ablated.ravel()
    varied = all(values.size and np.ptp(values) > 0 for values in together)
    table["agreement"] = np.corrcoef(*together)[0, 1] if varied else np.nan
    table["rank_attribution"] = order.rank(ascending=False, method="first").astype("Int32")
    table["reason"] = reason
    if reason:
        table[["attribution", "attribution_low", "attribution_high"]] = np.nan
        table["rank_attribution"] = pd.NA
    return table


def _difference(
    settings: InnerSettings, values: np.ndarray, truth: np.ndarray, patients: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean of `values` [n, m] over positives minus negatives, and its interval."""
    drawn = st.PatientDraws(patients, settings.bootstrap_draws, settings.seed)
    difference = partial(_weighted_difference, values, truth)
    low, high = st.interval(drawn.of(difference))
    return difference(np.ones((len(truth), 1)))[:, 0], low, high


def _weighted_difference(values: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the difference [m, draws] of means weighted by `weights` [n, draws]."""
    means = []
    for rows in (truth, ~truth):
        count = weights[rows].sum(axis=0, dtype=np.float64)
        total = values[rows].T.astype(np.float64) @ weights[rows]
        mean = np.full(total.shape, np.nan)
        np.divide(total, count[None], out=mean, where=count[None] > 0)
        means.append(mean)
    return means[0] - means[1]
