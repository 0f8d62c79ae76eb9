"""Step: keep or drop groups of latents at the head layer, exactly and without running the network.

`mammo_sae.analysis.linear` gives the amount that each latent adds to a logit. The logit after any
edit of the codes follows from these amounts and from

    original logit = spliced logit + w.(mean of the SAE's error)

The step writes two tables. `interventions` has groups of latents at chosen k, with intervals and
controls. `sweep` has the AUROC for every k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae.analysis import cases as case
from mammo_sae.analysis.edits import intervention_table, mean_codes
from mammo_sae.analysis.linear import Inputs, Shares, each_share, original_logits
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
    typical = mean_codes(reader.pooled("mean"), cases, settings.discovery)
    unit = labelling(cases, concepts)
    parts: dict[Path, list[pd.DataFrame]] = {interventions: [], sweep: []}
    inputs = Inputs(images, codes, sae, head, latents)
    splits = (settings.discovery, *settings.splits)
    for concept, shares in groupby(each_share(inputs, concepts, splits), lambda s: s.concept):
        original = original_logits(logits, concept, reader.image_ids)
        for share, *tables in _tables(settings, shares, original, typical):
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
) -> Iterator[tuple[Shares, pd.DataFrame, pd.DataFrame]]:
    """Yield one concept's rows of both tables for each split. The first of `shares` is discovery's.

    `original` and `typical` are those of `edits_of`.
    """
    discovery = edits_of(next(shares), original, typical)
    thresholds = Thresholds(discovery, settings.discovery)
    for share in shares:
        data = edits_of(share, original, typical)
        table = intervention_table(settings, data, thresholds, share.ranked)
        yield share, table, sweep_table(settings, data, share.ranked)


@dataclass(frozen=True)
class Edits:
    """One concept's data of n images at the head, from which the logits of every edit follow.

    Attributes
    ----------
    contributions : [n, h] float64
        Mean code times weight of every latent.
    offset
        Logit with all latents dropped.
    original : [n]
        Logit of the network without the SAE.
    labels : [n] bool
    patients : [n]
    typical : [h] float64
        Mean contribution of every latent in the discovery split, used by mean ablation.
    """

    contributions: np.ndarray
    offset: float
    original: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    typical: np.ndarray

    def logits(self, kept: np.ndarray, splice: str) -> np.ndarray:
        """Return the logits [n, e] of `e` edits. `kept` [h, e] is True for latents that stay."""
        on = self.contributions @ kept.astype(np.float64)
        if splice == "spliced":
            return self.offset + on
        on += (self.original - self.contributions.sum(axis=1))[:, None]
        if splice == "error_preserving":
            return on
        return on + self.typical @ (~kept).astype(np.float64)


def edits_of(share: Shares, original: np.ndarray, typical: np.ndarray) -> Edits:
    """Return the `Edits` of one concept and split.

    `original` [images] has the network's logits of all images with codes. `typical` [h] has the
    mean codes of the discovery split.
    """
    return Edits(
        contributions=share.contributions,
        offset=share.offset,
        original=original[share.rows],
        labels=share.labels,
        patients=share.patients,
        typical=typical * share.weights,
    )
