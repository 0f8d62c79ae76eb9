"""Step: score predictions after an ablation of confounded latents at an inner layer.

Let S be the latents of an SAE at an inner layer that a confounder explains, x_j the embedding of a
cell, z_jt its codes and d_t the atoms. The ablation subtracts the latents' contributions from every
cell and keeps the SAE's error:

    x_j - sum_{t in S} z_jt d_t

Then the rest of the network runs, and the encoder's own head scores the image. As at the head,
random sets of latents with similar firing rates are ablated for comparison. The rows have the
columns of `mammo_sae.analysis.ablation`. No head is refitted, because this needs a run of the
network on the whole discovery split for each set. `benchmarks/check_ablation.py` compares the
ablation at an inner layer with that at the head.

Source: SHIFT (Marks et al. 2024, arXiv 2403.19647).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis.ablation import (
    SetWithRandom,
    ablation_rows,
    table_part,
    tested_confounders,
    with_random,
)
from mammo_sae.analysis.candidates import read_candidates
from mammo_sae.analysis.latent_sets import suspected_sets
from mammo_sae.analysis.patching import PatchedNetwork, Reruns
from mammo_sae.analysis.refit import NOTHING, Predict
from mammo_sae.analysis.scored import Scored
from mammo_sae.analysis.verdict import CONFOUNDED
from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.cohorts.units import IMAGE
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import InnerAblationSettings


def run(
    settings: InnerAblationSettings,
    *,
    identity: case.Identity,
    images: Path,
    image_stores: Sequence[Path],
    encoder: Path,
    head: Path,
    embeddings: Sequence[Path],
    sae: Path,
    codes: Path,
    latents: Path,
    confounds: Path,
    concepts: Sequence[str],
    measurements: Sequence[Path],
    output: Path,
) -> list[Path]:
    """Ablate the confounded latents of an inner layer and run the rest of the network.

    Parameters
    ----------
    images
        Image table.
    image_stores
        Manifests of the canonical images, all shards.
    encoder, head
        Directories of the encoder and of its head.
    embeddings
        Manifests of the layer's embeddings, all shards.
    sae, codes
        `sae.json` and the manifest of its codes.
    latents, confounds
        Tables of the same SAE, written by the steps of these names.
    concepts
        Columns of the image table.
    measurements
        Tables of the step `measurements`, all shards.
    output
        Table to write (.parquet): a row per concept, split, set of latents, confounder and measure,
        with the AUROC before and after the ablation, their difference, and the difference that
        random sets make.

    Raises
    ------
    InputError
        If the head lacks a concept.
    """
    reader = CodesReader(codes)
    store = ImageReader(image_stores, concept_regions(images))
    cases, _ = read_candidates(images, reader.image_ids, store, concepts, measurements)
    verdicts, table = read_table(confounds), read_table(latents)
    unused = np.zeros(reader.latents)  # the mean codes, which an error-preserving edit does not use
    cut = PatchedNetwork.load(encoder, head, sae, identity.layer, unused)
    patients = cases["patient_id"].to_numpy()
    parts = []
    for concept in concepts:
        names = tested_confounders(verdicts, concept)
        ranked = table[table["concept"] == concept].sort_values("latent")
        suspected = [s for s in suspected_sets(verdicts, concept) if s.verdicts == CONFOUNDED]
        sets = with_random(settings, suspected, ranked)
        for split in settings.splits:
            known = case.labelled_images(cases, concept, split)
            rows = case.whole_patients(patients, known, settings.images)
            labels = case.labels(cases, concept, rows)
            here = cases.iloc[rows].reindex(columns=names)
            data = Scored.by_level(here, labels, patients[rows], settings.max_levels)
            predict: Predict = _never
            if not st.why_not_estimable(labels, patients[rows]):
                ids = [reader.image_ids[i] for i in rows]
                source = EmbeddingReader(embeddings, identity.layer, ids)
                reruns = Reruns(cut, source, reader, cases, concept, settings.batch_size, "")
                predict = _predictions(reruns, sets)
            found = ablation_rows(settings, data, {False: (predict, "")}, sets)
            parts.append(table_part(settings, concept, split, IMAGE, found))
    write_table(identity.label(pd.concat(parts, ignore_index=True)), output)
    return [output]


def _never(latents: np.ndarray) -> np.ndarray:
    raise AssertionError("an AUROC that can't be estimated needs no scores")


def _predictions(reruns: Reruns, sets: Sequence[SetWithRandom]) -> Predict:
    """Return a function: ablated latents [k] -> logits [n], for `sets` and their random sets.

    The embeddings are read once: every batch is scored after each ablation.
    """
    every = [NOTHING, *(one for group, random in sets for one in (group.latents, *random))]
    ablated = {latents.tobytes(): latents for latents in every}
    kept = np.ones((reruns.latents, len(ablated)), dtype=bool)
    for column, latents in enumerate(ablated.values()):
        kept[latents, column] = False
    logits = dict(zip(ablated, reruns.logits(kept, "error_preserving").T, strict=True))
    return lambda latents: logits[latents.tobytes()]
