"""Step: keep or drop groups of latents at the head layer, exactly and without running the network.

`mammo_sae.analysis.linear` gives the amount that each latent adds to a logit. The logit after any
edit of the codes follows from these amounts and from

    original logit = spliced logit + w.(mean of the SAE's error)

The step writes two tables. `interventions` has groups of latents at chosen k, with intervals and
controls. `sweep` has the AUROC for every k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae.analysis import cases as case
from mammo_sae.analysis.edits import intervention_table, mean_codes
from mammo_sae.analysis.linear import Inputs, Shares, each_share, original_logits
from mammo_sae.analysis.mean_codes import MeanCodes
from mammo_sae.analysis.sweep import sweep_table
from mammo_sae.analysis.thresholds import Thresholds
from mammo_sae.cohorts.labels import labelling
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import InterventionSettings


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
    interventions: Path,
    sweep: Path,
) -> list[Path]:
    """Keep or drop the first k latents at the head layer, and score the edited predictions.

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
    latents
        Latents table of the same SAE, written by the step `latents`.
    predictions
        The encoder's logits, one row per image and concept.
    concepts
        Columns of the image table.
    interventions, sweep
        Tables to write. `interventions` has one row per edit, concept and split; `sweep` one per k,
        mode, ranking, concept and split.

    Raises
    ------
    InputError
        If the codes are not of the head layer or the head lacks a concept.
    """
    reader = CodesReader(codes)
    logits = read_table(predictions)
    cases = case.read_cases(images, reader.image_ids)
    typical, unknown = mean_codes(reader, cases, settings.discovery)
    unit = labelling(cases, concepts)
    parts: dict[Path, list[pd.DataFrame]] = {interventions: [], sweep: []}
    inputs = Inputs(images, codes, sae, head, latents)
    splits = (settings.discovery, *settings.splits)
    everything = each_share(inputs, concepts, splits, interventions.parent)
    for concept, shares in groupby(everything, lambda share: share.concept):
        original = original_logits(logits, concept, reader.image_ids)
        for share, *tables in _tables(settings, shares, original, typical, unknown):
            for path, part in zip((interventions, sweep), tables, strict=True):
                part.insert(0, "concept", concept)
                part.insert(1, "split", share.split)
                part.insert(2, "labels", unit)
                parts[path].append(part)
    for path, tables in parts.items():
        write_table(identity.label(pd.concat(tables, ignore_index=True)), path)
    return [interventions, sweep]


def _tables(
    settings: InterventionSettings,
    shares: Iterator[Shares],
    original: np.ndarray,
    typical: np.ndarray,
    unknown: str,
) -> Iterator[tuple[Shares, pd.DataFrame, pd.DataFrame]]:
    """Yield one concept's rows of both tables for each split. The first of `shares` is discovery's.

    `original`, `typical` and `unknown` are those of `edits_of`.
    """
    discovery = edits_of(next(shares), original, typical, unknown)
    thresholds = Thresholds(discovery, settings.discovery)
    for share in shares:
        data = edits_of(share, original, typical, unknown)
        table = intervention_table(settings, data, thresholds, share.ranked)
        yield share, table, sweep_table(settings, data, share.ranked)


@dataclass(frozen=True)
class Edits:
    """One concept's data of n images at the head, from which the logits of every edit follow.

    Attributes
    ----------
    means : n images, h latents
        The mean codes.
    weights : [h] float64
        What a latent's mean code is multiplied by to give its contribution to the logit.
    offset
        Logit with all latents dropped.
    original : [n]
        Logit of the network without the SAE.
    labels : [n] bool
    patients : [n]
    typical : [h] float64
        Mean contribution of every latent in the discovery split, used by mean ablation.
    unknown
        Why the mean contributions are not known, or ``""``.
    """

    means: MeanCodes
    weights: np.ndarray
    offset: float
    original: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    typical: np.ndarray
    unknown: str = ""
    _last: dict[bytes, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def total(self) -> np.ndarray:
        """Return [n]: the sum of the contributions of all latents."""
        return self.means.times(self.weights[:, None])[:, 0]

    def logits(self, kept: np.ndarray, splice: str) -> np.ndarray:
        """Return the logits [n, e] of `e` edits. `kept` [h, e] is True for latents that stay."""
        on = self._sums(kept)
        if splice == "spliced":
            return self.offset + on
        on = on + (self.original - self.total)[:, None]
        if splice == "error_preserving":
            return on
        return on + self.typical @ (~kept).astype(np.float64)

    def _sums(self, kept: np.ndarray) -> np.ndarray:
        """Return [n, e]: the sum of the contributions of the latents `kept` [h, e].

        A table asks for the same edits and for their opposites in turn, so the last sums are kept.
        """
        key, opposite = np.packbits(kept).tobytes(), np.packbits(~kept).tobytes()
        if opposite in self._last:
            return self.total[:, None] - self._last[opposite]
        if key not in self._last:
            self._last.clear()
            self._last[key] = self.means.times(self.weights[:, None] * kept)
        return self._last[key]


def edits_of(share: Shares, original: np.ndarray, typical: np.ndarray, unknown: str) -> Edits:
    """Return the `Edits` of one concept and split.

    `original` [images] has the network's logits of all images with codes. `typical` [h] has the
    mean codes of the discovery split, and `unknown` says why they are not known, or is ``""``.
    """
    return Edits(
        means=share.means,
        weights=share.weights,
        offset=share.offset,
        original=original[share.rows],
        labels=share.labels,
        patients=share.patients,
        typical=typical * share.weights,
        unknown=unknown,
    )
