"""Step: measure what each latent responds to, by pairs of images that differ in one component.

A pair is two phantom images that are equal except for one component: a finding or an artefact (the
step `pairs`). The *response* of a latent with score z to a component is

    mean over pairs of (z_on - z_off) / standard deviation of z

where z_on is the score of the image with the component, and z_off that of the image without it. The
standard deviation is taken over all images of the pairs. Intervals come from the bootstrap over
patients. A response is caused by the component, because nothing else differs within a pair. An
association in a cohort may have other causes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis.cases import Identity
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import BootstrapSettings


def run(
    settings: BootstrapSettings,
    *,
    identity: Identity,
    pairs: Path,
    codes: Path,
    latents: Path,
    confounds: Path,
    output: Path,
) -> list[Path]:
    """Measure the responses of one SAE's latents to each finding and artefact of the phantom.

    Parameters
    ----------
    pairs
        Table of the pairs, written by the step `pairs`.
    codes
        Manifest of the SAE's codes of the pairs' images.
    latents
        The table `latents` of the same SAE. Its column `score` says how codes become scores.
    confounds
        The table `confounds` of the same SAE. The latents in this table are measured.
    output
        Table to write (.parquet): a row per latent and component.
    """
    score = read_table(latents)["score"].iloc[0]
    chosen = np.unique(read_table(confounds)["latent"].to_numpy(dtype=np.int64))
    rows = latent_responses(settings, read_table(pairs), CodesReader(codes), score, chosen)
    write_table(identity.label(rows), output)
    return [output]


def latent_responses(
    settings: BootstrapSettings,
    pairs: pd.DataFrame,
    codes: CodesReader,
    score: str,
    latents: np.ndarray,
) -> pd.DataFrame:
    """Return the rows of `responses` for `latents` [m], with their indices in the column latent.

    `score` is the name of the pooled codes (`mammo_sae.stores.codes.POOLED`).
    """
    scores = pd.DataFrame(
        codes.pooled(score, latents=latents), index=codes.image_ids, columns=pd.Index(latents)
    )
    return responses(settings, pairs, scores).rename(columns={"score": "latent"})


def responses(
    settings: BootstrapSettings, pairs: pd.DataFrame, scores: pd.DataFrame
) -> pd.DataFrame:
    """Return a row per score and component: the response in standard deviations.

    Parameters
    ----------
    pairs
        Columns component, patient, on, off.
    scores
        A row per image (the index is the image id), a column per score.

    Returns
    -------
    table
        Columns ``score`` (the name of the score's column), ``component``, ``pairs`` and
        ``patients`` (their numbers), ``response`` and its 95 % interval, ``share_on`` (the share of
        the pairs in which the score is larger with the component) and ``reason``. A score with the
        same value on all images has no response, and ``reason`` says so.
    """
    deviation = scores.to_numpy(np.float64).std(axis=0)
    varies = ~st.is_constant(scores.to_numpy())
    parts = []
    for component, mine in pairs.groupby("component", sort=False):
        patients = mine["patient"].to_numpy()
        on, off = (scores.loc[mine[end]].to_numpy(np.float64) for end in ("on", "off"))
        difference = on - off
        drawn = st.PatientDraws(patients, settings.bootstrap_draws, settings.seed)
        # Every patient has the same number of pairs, so the weights of every draw sum to the number
        # of pairs.
        low, high = st.interval(drawn.of(partial(_means, difference)))
        part = pd.DataFrame({"score": scores.columns, "component": component})
        part["pairs"], part["patients"] = len(mine), len(np.unique(patients))
        for name, values in (
            ("response", difference.mean(axis=0)),
            ("response_low", low),
            ("response_high", high),
        ):
            part[name] = np.divide(
                values, deviation, out=np.full(len(values), np.nan), where=varies
            )
        part["share_on"] = np.where(varies, (difference > 0).mean(axis=0), np.nan)
        part["reason"] = np.where(varies, "", "the same score on every image of the pairs")
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _means(difference: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return difference.T @ weights.astype(np.float64) / len(difference)
