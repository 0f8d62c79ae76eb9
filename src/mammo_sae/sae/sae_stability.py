"""Step: measure how well SAEs trained with different seeds agree on their atoms.

The atoms of two SAEs are paired one to one so that the summed cosine of the pairs is largest
(Hungarian method). Latents that are active in no cell are left out, because their atoms hardly
change in training. For the null value, the atoms of one SAE are paired with random directions that
have the mean and covariance of the atoms of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from mammo_sae.errors import InputError
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import write_table

CLOSE = (0.7, 0.9)


def run(
    *,
    encoder_name: str,
    layer: str,
    sae_name: str,
    seeds: Sequence[int],
    saes: Sequence[Path],
    codes: Sequence[Path],
    output: Path,
) -> list[Path]:
    """Measure how well SAEs trained with different seeds agree on their atoms.

    Parameters
    ----------
    encoder_name, layer, sae_name
        Names of the SAE under test.
    seeds
        Seeds of the SAE, at least two.
    saes, codes
        Description (`sae.json`) and manifest of the codes of each seed, in the order of `seeds`.
    output
        Table to write, one row per pair of seeds: encoder, layer, sae, seed, other_seed, latents
        (number of pairs of latents), cosine (mean over these pairs), cosine_null, share_above_0.7
        and share_above_0.9 (shares of pairs with a larger cosine).

    Raises
    ------
    InputError
        If there are fewer than two seeds, or their number differs from that of SAEs or codes.
    """
    if len(seeds) < 2 or not len(seeds) == len(saes) == len(codes):
        raise InputError(
            f"there are {len(seeds)} seeds, {len(saes)} SAEs and {len(codes)} codes; give the same "
            "number of each, at least two"
        )
    atoms = {}
    for seed, description, manifest in zip(seeds, saes, codes, strict=True):
        alive = CodesReader(manifest).pooled("active").max(axis=0) > 0
        atoms[seed] = SparseAutoencoder.load(description).decoder_weight.numpy()[alive]
    rows = []
    for one, other in combinations(seeds, 2):
        cosine = matched_cosines(atoms[one], atoms[other])
        null = matched_cosines(atoms[one], lookalikes(atoms[other], seed=0))
        row = {
            "encoder": encoder_name,
            "layer": layer,
            "sae": sae_name,
            "seed": one,
            "other_seed": other,
        }
        row |= {"latents": len(cosine), "cosine": cosine.mean(), "cosine_null": null.mean()}
        rows.append(row | {f"share_above_{close}": (cosine > close).mean() for close in CLOSE})
    write_table(pd.DataFrame(rows), output)
    return [output]


def matched_cosines(atoms: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosines [min(h, g)] of atoms [h, d] and others [g, d] paired one to one.

    An atom of norm 0 has cosine 0 with every other atom.
    """
    lengths = (np.linalg.norm(part, axis=1, keepdims=True) for part in (atoms, others))
    unit, other = (
        part / np.where(length > 0, length, 1)
        for part, length in zip((atoms, others), lengths, strict=True)
    )
    cosine = unit @ other.T
    return cosine[linear_sum_assignment(cosine, maximize=True)]


def lookalikes(atoms: np.ndarray, seed: int) -> np.ndarray:
    """Return Gaussian directions [h, d] with the mean and covariance of `atoms` [h, d]."""
    mixing = np.random.default_rng(seed).standard_normal((len(atoms), len(atoms)))
    mean = atoms.mean(axis=0)
    return mean + mixing @ (atoms - mean) / np.sqrt(len(atoms))
