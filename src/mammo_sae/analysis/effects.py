"""Step: measure each latent's effect on the logits at the head layer.

The effect of latent t on an image is the amount z_t (w.d_t) that it adds to the logit. Pooling and
head are linear, so the ablation of t alone lowers the logit by exactly this amount, in the spliced
and in the error-preserving form. The table has one row per (latent, concept, split):

- ``effect_positive``, ``effect_negative``: mean over the concept's positive and negative images;
- ``effect``: their difference, the amount that the latent adds to the separation of the classes;
  ``rank_causal`` ranks latents by its size;
- ``weight``: w.d_t. The effect on one image is this weight times the image's mean code, which the
  codes store holds;
- ``share``: the effect divided by the difference between the classes' mean spliced logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis.cases import Identity
from mammo_sae.analysis.linear import Inputs, Shares, each_share
from mammo_sae.stores.tables import write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import EffectSettings

MEASURES = ("effect", "effect_positive", "effect_negative")


def run(
    settings: EffectSettings,
    *,
    identity: Identity,
    images: Path,
    codes: Path,
    sae: Path,
    head: Path,
    latents: Path,
    concepts: Sequence[str],
    output: Path,
) -> list[Path]:
    """Measure what each latent of the head layer adds to every logit.

    Parameters
    ----------
    images
        Image table.
    codes
        Manifest of the SAE's codes.
    sae
        Description (`sae.json`) of the SAE.
    head
        Directory of the encoder's head.
    latents
        Latents table of the same SAE, written by the step `latents`.
    concepts
        Columns of the image table.
    output
        Table to write (.parquet): a row per latent that fires, concept and split.

    Raises
    ------
    InputError
        If the codes are not of the head layer or the head lacks a concept.
    """
    parts = []
    inputs = Inputs(images, codes, sae, head, latents)
    for share in each_share(inputs, concepts, settings.splits, output.parent):
        part = effect_table(settings, share)
        part.insert(0, "concept", share.concept)
        part.insert(1, "split", share.split)
        parts.append(part)
    write_table(identity.label(pd.concat(parts, ignore_index=True)), output)
    return [output]


def effect_table(settings: EffectSettings, data: Shares) -> pd.DataFrame:
    """Return the rows of one concept and split, one per latent that fires in it."""
    reason = st.why_not_estimable(data.labels, data.patients)
    draws = st.PatientDraws(data.patients, settings.bootstrap_draws, settings.seed)
    ones = np.ones((len(data.labels), 1))
    found = []
    for latents, means in data.means.blocks():
        here = latents.start + np.flatnonzero(means.any(axis=1) & (data.weights[latents] != 0))
        contributions = means[here - latents.start].T * data.weights[here]
        effects = partial(class_effects, contributions, data.labels)
        point, drawn = effects(ones), draws.of(effects)
        part = pd.DataFrame({"latent": here, "reason": reason, "weight": data.weights[here]})
        for name in MEASURES:
            low, high = st.interval(drawn[name])
            for column, values in (
                (name, point[name][:, 0]),
                (f"{name}_low", low),
                (f"{name}_high", high),
            ):
                part[column] = np.nan if reason else values
        found.append(part)
    table = pd.concat([part for part in found if len(part)] or found[:1], ignore_index=True)
    fires = table["latent"].to_numpy()
    whole = table["effect"].sum()
    table["share"] = table["effect"] / whole if whole else np.nan
    order = table["effect"].abs().rank(ascending=False, method="first")
    table["rank_causal"] = order.astype("Int32")
    table["rank_auroc"] = pd.array(data.ranked["rank_auroc"].to_numpy()[fires], "Int32")
    return table


def class_effects(
    contributions: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return mean contributions [h, draws] over positives, over negatives, and the difference."""
    result = {}
    for name, rows in (("effect_positive", labels), ("effect_negative", ~labels)):
        count = weights[rows].sum(axis=0, dtype=np.float64)
        total = contributions[rows].T @ weights[rows].astype(np.float64)
        result[name] = np.divide(
            total,
            count,
            out=np.full(total.shape, np.nan),
            where=np.broadcast_to(count > 0, total.shape),
        )
    result["effect"] = result["effect_positive"] - result["effect_negative"]
    return result
