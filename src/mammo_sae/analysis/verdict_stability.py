"""Step: measure how often verdicts are repeated by SAEs of other seeds.

Each latent with a verdict is paired with the latent of the other seed's SAE whose atom has the
largest cosine with its own atom. The pair is *matched* if the cosine is at least `CLOSE`. The
verdict is *repeated* if the matched latent has the same verdict. A verdict is the most severe one
over all confounders. The table gives the share of repeated verdicts beside the share that is
expected by chance, if the matched latents had their verdicts in random order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.analysis.agreement import ALL, kept_verdicts
from mammo_sae.analysis.latent_sets import severest
from mammo_sae.analysis.matched_latents import best_match
from mammo_sae.analysis.verdict import UNASSOCIATED
from mammo_sae.sae.files import read_atoms
from mammo_sae.sae.pairing import unit
from mammo_sae.sae.seeds import check_seeds, labelled
from mammo_sae.stores.tables import read_table, write_table

CLOSE = 0.7


def run(
    *,
    encoder_name: str,
    layer: str,
    sae_name: str,
    seeds: Sequence[int],
    saes: Sequence[Path],
    confounds: Sequence[Path],
    concepts: Sequence[str],
    output: Path,
) -> list[Path]:
    """Measure how often the verdicts of one seed's latents are repeated by another seed's.

    Parameters
    ----------
    encoder_name, layer, sae_name
        Names of the SAE under test.
    seeds
        Seeds of the SAE, at least two.
    saes, confounds
        Description (`sae.json`) and table of confounds of each seed, in the order of `seeds`.
    concepts
        Columns of the image table.
    output
        Table to write (.parquet): a row per ordered pair of seeds, concept and verdict.

    Raises
    ------
    InputError
        If there are fewer than two seeds, or their number differs from that of SAEs or tables.
    """
    check_seeds(seeds, saes, confounds, "tables of confounds")
    tables = [read_table(path) for path in confounds]
    parts = []
    for one, other in permutations(range(len(seeds)), 2):
        # Atoms are read again for each pair, so memory holds two dictionaries for any number of
        # seeds.
        match, cosine = best_match(*(unit(read_atoms(saes[i])) for i in (one, other)))
        for concept in concepts:
            own, others = (severest(tables[i], concept) for i in (one, other))
            part = repeated(own, others, match, cosine)
            part.insert(0, "concept", concept)
            part.insert(0, "other_seed", seeds[other])
            part.insert(0, "seed", seeds[one])
            parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    write_table(labelled(table, encoder_name, layer, sae_name), output)
    return [output]


def repeated(
    own: pd.Series, others: pd.Series, match: np.ndarray, cosine: np.ndarray
) -> pd.DataFrame:
    """Return a row per verdict of associated latents, and one for all of them.

    Parameters
    ----------
    own, others
        Verdict of each tested latent (the index) of the two SAEs.
    match, cosine : [h]
        For each latent of the first SAE, its most similar latent of the other, and the cosine.

    Returns
    -------
    table
        ``latents`` have the verdict; ``matched`` of them have a cosine of at least `CLOSE`;
        ``tested`` of these are matched with a latent that has a verdict or is not associated;
        ``repeated`` of these have the same verdict. ``share`` is ``repeated`` / ``tested``, and
        ``chance`` is its expectation if the verdicts of the matched latents were permuted.
    """
    own = own[own != UNASSOCIATED]
    latents = own.index.to_numpy(dtype=np.int64)
    is_matched = cosine[latents] >= CLOSE
    found = others.reindex(match[latents])
    found.index = own.index
    tested = is_matched & found.notna().to_numpy()
    result = kept_verdicts(own, found.where(tested))
    matched = [int((is_matched & _has(own, verdict)).sum()) for verdict in result["verdict"]]
    result.insert(2, "matched", matched)
    result["reason"] = np.where(result["tested"] > 0, "", "no latent has a tested match")
    return result


def _has(own: pd.Series, verdict: str) -> np.ndarray:
    return np.ones(len(own), bool) if verdict == ALL else (own == verdict).to_numpy()
