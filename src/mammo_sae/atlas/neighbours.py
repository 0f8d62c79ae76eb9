"""The neighbours of a latent: similar atoms, and latents that fire on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammo_sae.analysis.cases import Identity
from mammo_sae.analysis.verdict_stability import CLOSE
from mammo_sae.atlas.sentences import address
from mammo_sae.sae.files import read_atoms
from mammo_sae.sae.pairing import cosine_blocks, unit
from mammo_sae.stores.codes import CodesReader

NEAREST, TOGETHER = 4, 8  # neighbours shown per SAE, and in all
IMAGES = 2000  # images whose activations are compared, at most


def comparable(
    identity: Identity, others: Sequence[Identity], bases: Mapping[str, str | None]
) -> list[Identity]:
    """Return the SAEs of `others` whose atoms lie in the space of those of `identity`.

    They are of the same layer, and of the same encoder, its base, or an encoder with the same base.
    `bases` has the base of each fine-tuned encoder.
    """

    def root(encoder: str) -> str:
        return bases.get(encoder) or encoder

    return [
        other
        for other in others
        if other.layer == identity.layer and root(other.encoder) == root(identity.encoder)
    ]


def nearest_atoms(
    saes: Mapping[Identity, Path],
    identity: Identity,
    latents: np.ndarray,
    others: Sequence[Identity],
) -> dict[int, list[tuple[str, int, float]]]:
    """Return latent -> (SAE, latent, cosine) of the most similar atoms of each SAE, largest first.

    Parameters
    ----------
    saes
        Description (`sae.json`) of every SAE.
    identity, latents
        The latents whose neighbours are wanted.
    others
        The SAEs to search. The latent itself is left out.
    """
    count = len(read_atoms(saes[identity]))
    chosen = np.zeros(count, bool)
    chosen[latents] = True
    mine = unit(read_atoms(saes[identity], chosen))
    found: dict[int, list[tuple[str, int, float]]] = {int(latent): [] for latent in latents}
    for other in others:
        atoms = unit(read_atoms(saes[other]))
        if atoms.shape[1] != mine.shape[1]:
            continue
        for rows, cosines in cosine_blocks(mine, atoms):
            for latent, row in zip(latents[rows], cosines, strict=True):
                if other == identity:
                    row[latent] = -np.inf
                best = np.argsort(-row, kind="stable")[:NEAREST]
                found[int(latent)] += [
                    (address(other), int(i), float(row[i])) for i in best if row[i] > 0
                ]
    return found


def cosine_matches(
    nearest: Mapping[int, Sequence[tuple[str, int, float]]], others: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return other SAE -> the best match there of each latent, by the cosine of their atoms.

    A row is the latent, its match, the cosine, and whether the cosine is at least `CLOSE`. A latent
    whose cosines are all 0 or less has no row.
    """
    found: dict[str, dict[int, tuple[int, int, float, bool]]] = {other: {} for other in others}
    for latent, rows in nearest.items():
        for other, match, cosine in rows:
            if other in found:
                found[other].setdefault(latent, (latent, match, cosine, cosine >= CLOSE))
    return {
        other: {"measure": "cosine", "least": CLOSE, "rows": list(rows.values())}
        for other, rows in found.items()
    }


def activation_matches(pairs: pd.DataFrame) -> dict[str, Any]:
    """Return the best match of each latent of an SAE in another one, by their activations.

    A row is the latent, its match, the correlation, and whether it is above that of chance.

    Parameters
    ----------
    pairs
        Rows of `mammo_sae.analysis.activation_matches` for one pair of SAEs.
    """
    known = pairs.dropna(subset=["match", "correlation"])
    columns = known[["latent", "match", "correlation", "matched"]]
    return {
        "measure": "correlation",
        "least": pairs["chance"].iloc[0] if len(pairs) else None,
        "rows": list(columns.itertuples(index=False, name=None)),
    }


def standardised(
    reader: CodesReader, score: str, latents: np.ndarray, image_ids: Sequence[str]
) -> np.ndarray:
    """Return the activations [n, m] of latents in images, each latent with mean 0 and variance 1.

    A latent with one value in all images is 0 there.
    """
    scores = reader.pooled(score, image_ids, latents)
    scores -= scores.mean(axis=0)
    spread = scores.std(axis=0)
    scores /= np.where(spread > 0, spread, 1)
    return scores


def sample(image_ids: Sequence[str]) -> list[str]:
    """Return at most `IMAGES` of the images, at equal steps."""
    steps = np.linspace(0, len(image_ids) - 1, min(len(image_ids), IMAGES)).astype(int)
    return [image_ids[i] for i in steps]


def firing_together(
    activity: Mapping[Identity, tuple[np.ndarray, np.ndarray]], identity: Identity
) -> dict[int, list[tuple[str, int, float]]]:
    """Return latent -> (SAE, latent, correlation) of latents that fire on the same images.

    At most `TOGETHER` of all SAEs are returned, the largest correlation first, without the latent
    itself.

    Parameters
    ----------
    activity
        SAE -> its latents [m], and their activations [n, m] from `standardised`. The images are the
        same for all SAEs.
    identity
        The SAE whose latents are wanted.
    """
    latents, scores = activity[identity]
    names = [(other, int(latent)) for other, (some, _) in activity.items() for latent in some]
    parts = [scores.T @ theirs / max(1, len(scores)) for _, theirs in activity.values()]
    table = np.concatenate(parts, axis=1)
    found = {}
    for latent, row in zip(map(int, latents), table, strict=True):
        order = np.argsort(-row, kind="stable")[: TOGETHER + 1]
        best = [i for i in order if names[i] != (identity, latent) and row[i] > 0][:TOGETHER]
        found[latent] = [(address(names[i][0]), names[i][1], float(row[i])) for i in best]
    return found


def sections_of(
    nearest: Sequence[tuple[str, int, float]], together: Sequence[tuple[str, int, float]]
) -> dict[str, Any]:
    """Return the tables of a latent's neighbours for its page."""
    return {
        "nearest": {"names": ["sae", "latent", "cosine"], "rows": nearest},
        "together": {"names": ["sae", "latent", "correlation"], "rows": together},
    }
