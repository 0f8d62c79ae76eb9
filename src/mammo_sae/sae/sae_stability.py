"""Step: measure how well SAEs trained with different seeds agree on their atoms.

The atoms of two SAEs are paired one to one so that the summed cosine of the pairs is largest
(`mammo_sae.sae.pairing`). Latents that are active in no cell are left out, because their atoms
hardly change in training. For the null value, the atoms of one SAE are paired with random
directions that have the mean and covariance of the atoms of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.sae.atoms import random_directions
from mammo_sae.sae.files import read_atoms
from mammo_sae.sae.pairing import matched_cosines, unit
from mammo_sae.sae.seeds import check_seeds, labelled
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
    check_seeds(seeds, saes, codes, "codes")
    alive = [alive_latents(CodesReader(manifest)) for manifest in codes]
    rows = []
    for one, other in combinations(range(len(seeds)), 2):
        # Atoms are read again for each pair, so memory holds two dictionaries for any number of
        # seeds.
        drawn = random_directions(read_atoms(saes[other], alive[other]), alive[other].sum(), 0)
        atoms = unit(read_atoms(saes[one], alive[one]))
        null = matched_cosines(atoms, unit(drawn))
        del drawn
        cosine = matched_cosines(atoms, unit(read_atoms(saes[other], alive[other])))
        row: dict[str, float] = {"seed": seeds[one], "other_seed": seeds[other]}
        row |= {"latents": len(cosine), "cosine": _mean(cosine), "cosine_null": _mean(null)}
        rows.append(row | {f"share_above_{close}": _mean(cosine > close) for close in CLOSE})
    write_table(labelled(pd.DataFrame(rows), encoder_name, layer, sae_name), output)
    return [output]


def alive_latents(codes: CodesReader) -> np.ndarray:
    """Return bool [h]: whether each latent is active in a cell of an image."""
    alive = np.zeros(codes.latents, bool)
    for image_ids in codes.image_blocks():
        alive |= (codes.pooled("active", image_ids) > 0).any(axis=0)
    return alive


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
