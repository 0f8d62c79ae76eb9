"""The AUROC of the head's logits for every number of latents kept or dropped, 0 to h.

`mammo_sae.analysis.interventions` scores a few numbers with intervals and controls; this is the
whole curve between them, for a figure. Logits are running sums of the ranked latents' shares, so
the curve costs one sort per number and no pass through the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.analysis import cases as case
from mammo_sae.analysis import interventions
from mammo_sae.analysis import statistics as st
from mammo_sae.analysis.settings import InterventionSettings
from mammo_sae.stores.tables import write_table

_BYTES = 128 << 20  # running sums held at once


def run(
    settings: InterventionSettings,
    *,
    identity: case.Identity,
    images: Path,
    codes: Path,
    sae: Path,
    head: Path,
    predictions: Path,
    latents: Path,
    concepts: Sequence[str],
    output: Path,
) -> None:
    """Write one SAE's curves, one row per (concept, split, ranking, mode, k); paths as there.

    Spliced logits only. From the k on at which all latents that ever fire are in, nothing changes,
    and no row is written.
    """
    parts = []
    inputs = interventions.Inputs(images, codes, sae, head, predictions, latents)
    for concept, split, data, ranked in interventions.each_edit(settings, inputs, concepts):
        for ranking in settings.rankings:
            order = interventions.ranked_order(ranked, ranking)
            curves = sweep(data, order) if not st.why_not_estimable(data.labels) else {}
            for mode, values in curves.items():
                keys = {"concept": concept, "split": split, "ranking": ranking, "mode": mode}
                parts.append(pd.DataFrame({**keys, "k": np.arange(len(values)), "auroc": values}))
    columns = ["concept", "split", "ranking", "mode", "k", "auroc"]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    write_table(identity.label(table), output)


def sweep(data: interventions.Edits, order: np.ndarray) -> dict[str, np.ndarray]:
    """Return ``on`` and ``off`` [j + 1]: AUROC with the first 0..j latents kept, or dropped.

    j is the place of the last latent that contributes to any image's logit.
    """
    n = len(data.labels)
    working = np.flatnonzero((data.contributions != 0).any(axis=0)[order])
    last = int(working[-1]) + 1 if working.size else 0
    result = {mode: np.empty(last + 1) for mode in ("on", "off")}
    total = data.contributions.sum(axis=1)
    kept = np.zeros(n)
    result["on"][0], result["off"][0] = 0.5, _auroc(total[None], data.labels)[0]
    step = max(1, _BYTES // (8 * n))
    with ThreadPoolExecutor(2) as pool:  # sorting, most of the work, releases the interpreter
        for start in range(0, last, step):
            chosen = order[start : min(start + step, last)]
            sums = kept + np.cumsum(data.contributions[:, chosen].T, axis=0)
            kept = sums[-1].copy()
            place = slice(start + 1, start + 1 + len(chosen))
            scores = pool.map(_auroc, (sums, total - sums), (data.labels, data.labels))
            result["on"][place], result["off"][place] = scores
    return result


def _auroc(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AUROC [e] of logits [e, n]; rounding decides no pair."""
    return st.auroc(np.round(logits, interventions.DIGITS).T, labels)
