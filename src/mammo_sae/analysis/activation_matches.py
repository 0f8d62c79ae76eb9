"""Step: match latents of two encoders that activate on the same images.

Atoms of different encoders lie in different spaces and can't be compared. Their scores on the same
images can. A latent's partner is the latent of the other SAE whose scores have the highest Spearman
rank correlation with its own over the discovery images. `correlation` is that of the pair over the
confirmation images, whose patients did not take part in the choice. `chance` is the 95 % quantile
of the same correlation, over latents, after patients are exchanged: a partner is chosen from the
scores of other patients' images, and its correlation is taken with those of other patients too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import rankdata

from mammo_sae.analysis import cases as case
from mammo_sae.analysis.exchange import PatientExchanges
from mammo_sae.errors import InputError
from mammo_sae.regression.features import Parts
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import ActivationMatchSettings

CHANCE_QUANTILE = 0.95
OWN_BLOCKS = 4  # blocks of own latents in memory at a time


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
    exchanges = [_exchange(known, seed) for known in patients]
    others = _Ranks(before, score, ids)
    parts = []
    blocks = after.latent_blocks(len(after), latents)
    for start in range(0, len(blocks), OWN_BLOCKS):
        some = blocks[start : start + OWN_BLOCKS]
        own = [
            np.concatenate([_standardised(after, score, of, block) for block in some], axis=1)
            for of in ids
        ]
        pair, by_chance = _best(others, own, exchanges)
        parts.append(
            pd.DataFrame(
                {
                    "latent": np.concatenate(some),
                    "match": pair.match,
                    "discovery_correlation": pair.discovery,
                    "correlation": pair.confirmation,
                    "exchanged": by_chance.confirmation,
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


def _exchange(patients: np.ndarray, seed: int) -> sparse.csr_array:
    """Return an exchange of the patients of n images, as a matrix [n, n].

    It has a 1 at (j, i) if image i gets the scores of image j. For this matrix P, own scores A and
    the scores B of others, A.T @ P @ B is the product of exchanged own scores with B.
    """
    every = np.arange(len(patients))
    moved = PatientExchanges(patients, 1, seed).of(every)[0] if len(patients) else every
    ones = np.ones(len(patients), np.float32)
    return sparse.csr_array((ones, (moved, every)), shape=(len(patients), len(patients)))


class _Ranks:
    """The standardised ranks of all latents of the other encoder, in blocks, in a temporary file.

    They are needed again for each block of own latents, and ranking takes longer than reading.
    """

    def __init__(self, reader: CodesReader, score: str, ids: Sequence[list[str]]) -> None:
        self._latents = reader.latent_blocks(len(reader))
        self._parts = Parts()
        self._splits = len(ids)
        for some in self._latents:
            for of in ids:
                self._parts.append(_standardised(reader, score, of, some))

    def __iter__(self) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """Yield the latents [b] of a block, and their ranks [n, b] in each split."""
        for number, some in enumerate(self._latents):
            first = number * self._splits
            yield some, [self._parts[first + split] for split in range(self._splits)]


def _standardised(reader: CodesReader, score: str, ids: list[str], some: np.ndarray) -> np.ndarray:
    """Return the ranks [n, b] of the scores, with mean 0 and length 1; 0 if they do not vary."""
    ranks = rankdata(reader.pooled(score, ids, some), axis=0) if ids else np.zeros((0, len(some)))
    ranks -= ranks.mean(axis=0) if len(ranks) else 0
    length = np.linalg.norm(ranks, axis=0)
    return (ranks / np.where(length > 0, length, 1)).astype(np.float32)


class _Pairs:
    """Each own latent's partner so far, and the correlation of the pair in both splits, [b] each.

    The partner is -1, and the correlations are missing, if no pair varies in the discovery split.
    """

    def __init__(self, count: int) -> None:
        self.match = np.full(count, -1)
        self.discovery = np.full(count, np.nan, np.float32)
        self.confirmation = np.full(count, np.nan, np.float32)

    def update(
        self, own: Sequence[np.ndarray], latents: np.ndarray, others: Sequence[np.ndarray]
    ) -> None:
        """Take partners from `latents` [m] where they correlate more, given ranks per split."""
        similar = own[0].T @ others[0]
        place = similar.argmax(axis=1)
        value = similar[np.arange(len(place)), place]
        better = value > np.nan_to_num(self.discovery)
        self.match[better], self.discovery[better] = latents[place[better]], value[better]
        for latent in np.flatnonzero(better):
            self.confirmation[latent] = own[1][:, latent] @ others[1][:, place[latent]]


def _best(
    others: _Ranks, own: Sequence[np.ndarray], exchanges: Sequence[sparse.csr_array]
) -> tuple[_Pairs, _Pairs]:
    """Return the partners of own latents, and those after an exchange of patients."""
    pairs, by_chance = _Pairs(own[0].shape[1]), _Pairs(own[0].shape[1])
    for latents, ranks in others:
        pairs.update(own, latents, ranks)
        exchanged = [matrix @ r for matrix, r in zip(exchanges, ranks, strict=True)]
        by_chance.update(own, latents, exchanged)
    return pairs, by_chance
