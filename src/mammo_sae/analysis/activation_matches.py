"""Step: match latents of two encoders that activate on the same images.

Atoms of different encoders lie in different spaces and can't be compared. Their scores on the same
images can. A latent's partner is the latent of the other SAE whose scores have the highest Spearman
rank correlation with its own over the discovery images. `correlation` is that of the pair over the
confirmation images, whose patients did not take part in the choice. `chance` is the 95 % quantile
of the same correlation, over latents, after patients are exchanged: a partner is chosen from the
scores of other patients' images, and its correlation is taken with those of other patients too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from mammo_sae.analysis import cases as case
from mammo_sae.analysis.exchange import PatientExchanges
from mammo_sae.errors import InputError
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import ActivationMatchSettings

CHANCE_QUANTILE = 0.95


def run(
    settings: ActivationMatchSettings,
    *,
    identity: case.Identity,
    images: Path,
    reference: str,
    codes_before: Path,
    codes_after: Path,
    output: Path,
) -> list[Path]:
    """Match the latents of an encoder with those of another one by their scores on the same images.

    Parameters
    ----------
    images
        Image table.
    reference
        Name of the other encoder, written into the table.
    codes_before, codes_after
        Manifests of the codes of the other encoder's SAE and of the encoder's own.
    output
        Table to write (.parquet): a row per latent of the encoder's own SAE.

    Raises
    ------
    InputError
        If the codes are of different images.
    """
    before, after = CodesReader(codes_before), CodesReader(codes_after)
    if set(before.image_ids) != set(after.image_ids):
        raise InputError(f"{codes_before} and {codes_after} are of different images; encode again")
    cases = case.read_cases(images, after.image_ids)
    ids, patients = [], []
    for split in (settings.discovery, settings.confirmation):
        rows = np.flatnonzero((cases["split"] == split).to_numpy(dtype=bool))
        ids.append([after.image_ids[row] for row in rows])
        patients.append(cases["patient_id"].to_numpy()[rows])
    table = pair_latents(before, after, settings.score, ids, patients, settings.seed)
    table.insert(1, "reference", reference)
    write_table(identity.label(table), output)
    return [output]


def pair_latents(
    before: CodesReader,
    after: CodesReader,
    score: str,
    ids: Sequence[list[str]],
    patients: Sequence[np.ndarray],
    seed: int,
    latents: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return the partner in `before` of each of the `latents` of `after` (None: all).

    Parameters
    ----------
    before, after
        Codes of both SAEs.
    score
        The pooled codes that are compared.
    ids, patients
        Images, and the patient of each, of the discovery and of the confirmation split.
    seed
        Seed of the exchange of patients.
    """
    exchanges = [PatientExchanges(known, 1, seed) for known in patients]
    moved = [
        one.of(np.arange(len(known)))[0] if len(known) else np.arange(0)
        for one, known in zip(exchanges, patients, strict=True)
    ]
    parts = []
    for own in after.latent_blocks(len(after), latents):
        mine = [_standardised(after, score, some, own) for some in ids]
        # Both splits of a latent of the reference are read once for each block of own latents.
        pair = _best(before, score, ids, mine)
        shuffled = [scores[order] for scores, order in zip(mine, moved, strict=True)]
        by_chance = _best(before, score, ids, shuffled)
        parts.append(
            pd.DataFrame(
                {
                    "latent": own,
                    "match": pair[0],
                    "discovery_correlation": pair[1],
                    "correlation": pair[2],
                    "exchanged": by_chance[2],
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    exchanged_ = table.pop("exchanged").dropna()
    table["chance"] = exchanged_.quantile(CHANCE_QUANTILE) if len(exchanged_) else np.nan
    table["matched"] = table["correlation"] > table["chance"]
    silent = table["match"] < 0
    table["match"] = table["match"].mask(silent).astype("Int32")
    table["reason"] = np.where(silent, "it or every other latent has one score on all images", "")
    return table


def _standardised(reader: CodesReader, score: str, ids: list[str], some: np.ndarray) -> np.ndarray:
    """Return the ranks [n, b] of the scores, with mean 0 and length 1; 0 if they do not vary."""
    ranks = rankdata(reader.pooled(score, ids, some), axis=0) if ids else np.zeros((0, len(some)))
    ranks -= ranks.mean(axis=0) if len(ranks) else 0
    length = np.linalg.norm(ranks, axis=0)
    return (ranks / np.where(length > 0, length, 1)).astype(np.float32)


def _best(
    before: CodesReader,
    score: str,
    ids: Sequence[list[str]],
    own: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each own latent's partner [b], and its correlation in both splits, [b] each.

    The partner is -1, and the correlations are missing, if no pair varies in the discovery split.
    """
    count = own[0].shape[1]
    match = np.full(count, -1)
    best, second = np.zeros(count, np.float32), np.full(count, np.nan, np.float32)
    for others in before.latent_blocks(len(before)):
        found, tested = (_standardised(before, score, some, others) for some in ids)
        similar = own[0].T @ found
        place = similar.argmax(axis=1)
        value = similar[np.arange(count), place]
        better = value > best
        match[better], best[better] = others[place[better]], value[better]
        pairs = own[1][:, better] * tested[:, place[better]]
        second[better] = pairs.sum(axis=0)
    return match, np.where(match < 0, np.nan, best), second
