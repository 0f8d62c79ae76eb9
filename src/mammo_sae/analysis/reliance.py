"""Step: measure how much of the network's prediction rests on latents of each verdict.

The logit of the head is the sum of a constant, a term for each latent and the SAE's error:

    logit = b + w.b_dec + sum_t z_t (w.d_t) + w.(mean error)

The difference between the mean logit of positive images and that of negative images is a sum of the
same terms, without the constant. The share of the latents with a verdict is

    sum_{t with the verdict} (effect of t) / (difference of the logit)

The effects are those of the table `effects`. The shares of all verdicts, of the latents without a
verdict and of the error add up to 1. A share is negative if the latents reduce the difference.
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
from mammo_sae.analysis.effects import class_effects
from mammo_sae.analysis.latent_sets import severest
from mammo_sae.analysis.linear import Inputs, Shares, each_share, original_logits
from mammo_sae.analysis.verdict import SAE_ERROR, SEVERITY, UNTESTED
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import EffectSettings

CARRIERS = (*SEVERITY, UNTESTED, SAE_ERROR)


def run(
    settings: EffectSettings,
    *,
    identity: Identity,
    images: Path,
    codes: Path,
    sae: Path,
    head: Path,
    predictions: Path,
    latents: Path,
    confounds: Path,
    concepts: Sequence[str],
    output: Path,
) -> list[Path]:
    """Measure how much of the classes' difference in mean logit comes from each verdict's latents.

    The difference is that between the mean logit of positive and of negative images.

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
    predictions
        The encoder's logits, one row per image and concept.
    latents, confounds
        Tables of the same SAE, written by the steps of these names.
    concepts
        Columns of the image table.
    output
        Table to write (.parquet): a row per concept, split and verdict.

    Raises
    ------
    InputError
        If the codes are not of the head layer or the head lacks a concept.
    """
    ids = CodesReader(codes).image_ids
    verdicts, logits = read_table(confounds), read_table(predictions)
    parts = []
    inputs = Inputs(images, codes, sae, head, latents)
    for share in each_share(inputs, concepts, settings.splits, output.parent):
        words = severest(verdicts, share.concept)
        original = original_logits(logits, share.concept, ids)[share.rows]
        part = reliance_table(settings, share, original, words)
        part.insert(0, "concept", share.concept)
        part.insert(1, "split", share.split)
        parts.append(part)
    write_table(identity.label(pd.concat(parts, ignore_index=True)), output)
    return [output]


def reliance_table(
    settings: EffectSettings, data: Shares, original: np.ndarray, verdicts: pd.Series
) -> pd.DataFrame:
    """Return the rows of one concept and split, one per verdict.

    Parameters
    ----------
    original : [n]
        Logits of the network without the SAE.
    verdicts
        The most severe verdict of each tested latent.
    """
    words = np.full(data.means.latents, UNTESTED, dtype=object)
    words[verdicts.index.to_numpy(dtype=np.int64)] = verdicts.to_numpy()
    of_word = np.stack([words == word for word in CARRIERS[:-1]], axis=1)
    parts = data.means.times(of_word * data.weights[:, None])
    error = original - data.offset - parts.sum(axis=1)
    reason = st.why_not_estimable(data.labels, data.patients)
    table = pd.DataFrame({"verdict": CARRIERS})
    table["latents"] = pd.array([*((words == w).sum() for w in CARRIERS[:-1]), pd.NA], "Int32")
    columns = ("difference", "share")
    table[[f"{name}{end}" for name in columns for end in ("", "_low", "_high")]] = np.nan
    table["logit_difference"] = np.nan
    table["reason"] = reason
    if reason:
        return table
    values = np.column_stack([parts, error, original])
    draws = st.PatientDraws(data.patients, settings.bootstrap_draws, settings.seed)
    effects = partial(class_effects, values, data.labels)
    point = effects(np.ones((len(values), 1)))["effect"][:, 0]
    drawn = draws.of(effects)["effect"]
    table["difference"], table["logit_difference"] = point[:-1], point[-1]
    table["difference_low"], table["difference_high"] = st.interval(drawn[:-1])
    low, high = st.interval(drawn[-1])
    if low <= 0 <= high:
        table["reason"] = (
            f"the logit hardly differs between the classes ({point[-1]:.3g}, 95 % interval "
            f"{low:.3g} to {high:.3g}), so no shares of it are given"
        )
        return table
    table["share"] = point[:-1] / point[-1]
    table["share_low"], table["share_high"] = st.interval(drawn[:-1] / drawn[-1])
    return table
