"""Step: find latents of a fine-tuned encoder that the pretrained encoder did not have.

Let `before` be the SAE of the pretrained encoder and `after` the SAE of the fine-tuned encoder, at
the same layer. Each latent of `after` is paired with the latent of `before` whose atom has the
largest cosine with its own atom. Fine-tuning started from the pretrained weights, so the atoms can
be compared. The table also gives the effects of both latents on the logit. A latent is new if its
cosine is below the null value: the 95 % quantile of the largest cosine of random directions, which
are drawn with the mean and covariance of the `after` atoms.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mammo_sae.errors import InputError
from mammo_sae.sae.atoms import random_directions
from mammo_sae.sae.files import read_atoms
from mammo_sae.sae.pairing import cosine_blocks, unit
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import MatchedLatentSettings

NULL_QUANTILE = 0.95


def run(
    settings: MatchedLatentSettings,
    *,
    sae_before: Path,
    sae_after: Path,
    effects_before: Path,
    effects_after: Path,
    output: Path,
) -> list[Path]:
    """Pair the latents of a fine-tuned encoder with those of its base, and compare their effects.

    Parameters
    ----------
    sae_before, sae_after
        `sae.json` of the pretrained and of the fine-tuned encoder's SAE, same layer.
    effects_before, effects_after
        Tables that the step `effects` wrote for these SAEs.
    output
        Table to write (.parquet): a row per concept, split and latent of the fine-tuned encoder's
        SAE that fires in the split.

    Raises
    ------
    InputError
        If the SAEs have different numbers of channels.
    """
    before, after = map(read_atoms, (sae_before, sae_after))
    if before.shape[1] != after.shape[1]:
        raise InputError(
            f"{sae_before} and {sae_after} are of different layers: "
            f"{before.shape[1]} and {after.shape[1]} channels"
        )
    drawn = random_directions(after, settings.directions, settings.seed)
    null = null_cosine(unit(drawn), unit(before))
    match, cosine = best_match(unit(after), before)
    del before, after
    table = read_table(effects_after)
    table = table[[*_KEYS, "rank_causal", "effect", "effect_low", "effect_high", "share"]].copy()
    latent = table["latent"].to_numpy()
    table["match"] = match[latent]
    table["cosine"] = cosine[latent]
    table["null_cosine"] = null
    table["new"] = cosine[latent] < null
    earlier = read_table(effects_before)[["concept", "split", "latent", "effect", "share"]]
    earlier = earlier.rename(
        columns={"latent": "match", "effect": "effect_before", "share": "share_before"}
    )
    table = table.merge(earlier, on=["concept", "split", "match"], how="left", validate="m:1")
    # A matched latent without a row fires in no image of the split, so its effect is 0.
    unknown = table["effect"].isna()
    for name in ("effect_before", "share_before"):
        table[name] = table[name].fillna(0.0).mask(unknown)
    write_table(table, output)
    return [output]


_KEYS = ("encoder", "layer", "sae", "seed", "concept", "split", "latent")


def best_match(atoms: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each atom's most similar row of `others` [g, d], and their cosine.

    Both results have shape [h], for `atoms` [h, d]. The first holds indices of rows. All rows have
    length 1.
    """
    match, cosine = np.empty(len(atoms), np.int64), np.empty(len(atoms))
    for rows, similar in cosine_blocks(atoms, others):
        match[rows] = similar.argmax(axis=1)
        cosine[rows] = similar.max(axis=1)
    return match, cosine


def null_cosine(directions: np.ndarray, others: np.ndarray) -> float:
    """Return the 95 % quantile, over random directions, of the largest cosine with `others`.

    The directions [m, d] come from `random_directions`. They have the mean and covariance of the
    atoms, so a direction common to all atoms does not count as a match. All rows have length 1.
    """
    return float(np.quantile(best_match(directions, others)[1], NULL_QUANTILE))
