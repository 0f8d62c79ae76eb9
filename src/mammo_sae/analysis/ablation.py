"""Step: score predictions after an ablation of the latents that a confounder explains.

Let S be a set of latents with certain verdicts, x an image's pooled embedding, z_t its mean codes
and d_t the atoms. The ablated embedding keeps the SAE's error:

    x - sum_{t in S} z_t d_t

Two heads score it: the encoder's own head, and a head fitted on the ablated embeddings of the
discovery split (`refit`). This is the method SHIFT (Marks et al. 2024, arXiv 2403.19647), where a
person chooses the latents; here the verdicts choose them. Random sets of latents with similar
firing rates are ablated for comparison.

The rows with the verdict ``concept-aligned`` are the targeted probe perturbation of SAEBench
(Karvonen et al. 2025, arXiv 2503.09532): a concept's aligned latents are ablated, and the
prediction of every concept is scored.

`mammo_sae.analysis.inner_ablation` writes the same columns for an inner layer, where the rest of
the network has to run.

The discovery split ranks the latents, and the confirmation split gives their verdicts. Differences
are therefore independent of the choice of latents only in other splits (column `independent`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis.candidates import read_candidates
from mammo_sae.analysis.latent_sets import (
    ALL,
    LatentSet,
    aligned_set,
    similar_sets,
    suspected_sets,
)
from mammo_sae.analysis.linear import Inputs, each_share, original_logits
from mammo_sae.analysis.mean_codes import MeanCodes
from mammo_sae.analysis.refit import NOTHING, Predict, Refit, without
from mammo_sae.analysis.scored import Measures, Scored
from mammo_sae.analysis.verdict import ALIGNED
from mammo_sae.cohorts.labels import labelling
from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.encoders.plans.plan import POOLED
from mammo_sae.encoders.pooled import mean_embeddings
from mammo_sae.sae.files import read_decoder
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import AblationSettings, InnerAblationSettings

    AnySettings = AblationSettings | InnerAblationSettings


def run(
    settings: AblationSettings,
    *,
    identity: case.Identity,
    images: Path,
    image_stores: Sequence[Path],
    embeddings: Sequence[Path],
    codes: Path,
    sae: Path,
    head: Path,
    predictions: Path,
    latents: Path,
    confounds: Path,
    concepts: Sequence[str],
    measurements: Sequence[Path],
    output: Path,
) -> list[Path]:
    """Score predictions after an ablation of the latents that a confounder explains.

    Parameters
    ----------
    images
        Image table.
    image_stores
        Manifests of the canonical images, all shards.
    embeddings
        Manifests of the embeddings of the layer `pooled`, all shards.
    codes
        Manifest of the SAE's codes.
    sae
        Description (`sae.json`) of the SAE.
    head
        Directory of the encoder's head.
    predictions
        The encoder's logits, one row per image and concept.
    latents, confounds
        Tables of the same SAE, written by the steps of these names.
    concepts
        Columns of the image table.
    measurements
        Tables of the step `measurements`, all shards.
    output
        Table to write (.parquet): a row per concept, split, set of latents, head (refitted or not),
        confounder and measure, with the AUROC before and after the ablation, their difference, and
        the difference that random sets make.

    Raises
    ------
    InputError
        If the codes are not of the head layer or the head lacks a concept.
    """
    reader = CodesReader(codes)
    store = ImageReader(image_stores, concept_regions(images))
    cases, _ = read_candidates(images, reader.image_ids, store, concepts, measurements)
    verdicts, logits = read_table(confounds), read_table(predictions)
    pooled = mean_embeddings(embeddings, POOLED, reader.image_ids)
    atoms, _ = read_decoder(sae)
    means = MeanCodes.of_images(reader, reader.image_ids, output.parent)
    aligned = [aligned_set(verdicts, concept) for concept in concepts]
    parts = []
    inputs = Inputs(images, codes, sae, head, latents)
    shares = each_share(inputs, concepts, settings.splits, output.parent)
    for concept, of_splits in groupby(shares, lambda share: share.concept):
        sets = [*suspected_sets(verdicts, concept), *aligned]
        names = tested_confounders(verdicts, concept)
        refit = Refit(settings, cases, concept, pooled, means, atoms)
        whole = original_logits(logits, concept, reader.image_ids)
        for share in of_splits:
            here = cases.iloc[share.rows].reindex(columns=names)
            data = Scored.by_level(here, share.labels, share.patients, settings.max_levels)
            heads = {
                False: (without(share, whole[share.rows]), ""),
                True: (refit.of(share.rows), refit.reason),
            }
            drawn = with_random(settings, sets, share.ranked)
            rows = ablation_rows(settings, data, heads, drawn)
            parts.append(
                table_part(settings, concept, share.split, labelling(cases, concepts), rows)
            )
    write_table(identity.label(pd.concat(parts, ignore_index=True)), output)
    return [output]


def tested_confounders(verdicts: pd.DataFrame, concept: str) -> list[str]:
    """Return the confounders for which `verdicts` has the latents of a concept."""
    return sorted(verdicts.loc[verdicts["concept"] == concept, "confounder"].unique())


def table_part(
    settings: AnySettings, concept: str, split: str, labels: str, rows: Iterator[dict[str, Any]]
) -> pd.DataFrame:
    """Return the part of the table with the rows of one concept and split.

    `labels` says whether the labels are of images, breasts or patients.
    """
    part = pd.DataFrame(list(rows))
    part.insert(0, "concept", concept)
    part.insert(1, "split", split)
    part.insert(2, "independent", split not in (settings.discovery, settings.confirmation))
    part.insert(3, "labels", labels)
    return part


SetWithRandom = tuple[LatentSet, list[np.ndarray]]


def with_random(
    settings: AnySettings, sets: Sequence[LatentSet], ranked: pd.DataFrame
) -> list[SetWithRandom]:
    """Return each set with random sets of as many latents of similar firing rates.

    `ranked` [h] has the concept's rows of the latents table, by latent.
    """
    firing = ranked["firing_rate"].to_numpy(dtype=np.float64)
    alive = ranked["rank_class_mean"].notna().to_numpy()
    count, seed = settings.random_sets, settings.seed
    return [(group, similar_sets(group.latents, firing, alive, count, seed)) for group in sets]


def ablation_rows(
    settings: AnySettings,
    data: Scored,
    heads: Mapping[bool, tuple[Predict, str]],
    sets: Sequence[SetWithRandom],
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one concept and split.

    Parameters
    ----------
    heads
        For the encoder's own head (False) and the refitted one (True): a function that returns the
        scores, and the reason why there are none, or ``""``.
    sets
        The sets of latents to ablate, each with its random sets.
    """
    few = st.why_not_estimable(data.labels, data.patients)
    drawn = st.PatientDraws(data.patients, settings.bootstrap_draws, settings.seed)
    measures = {refit: Measures(data, predict, drawn) for refit, (predict, _) in heads.items()}
    for group, random in sets:
        names: list[str] = [""]
        if group.verdicts != ALIGNED:
            names += [name for name in data.groups if group.called_for in (name, ALL)]
        for refit, (_, problem) in heads.items():
            if refit and group.verdicts == ALIGNED:
                continue  # a refitted head would learn to use other latents
            for name in names:
                why = few or problem or (data.groups[name][1] if name else "")
                measured = {} if why else _compared(measures[refit], group, random, name)
                why = why or group.why_empty or _shortcoming(measures[refit], group, random)
                nothing = "worst_group" if name else "auroc", ""
                for (measure, level), row in (measured or {nothing: _numbers({})}).items():
                    yield {
                        "latents_of": group.concept,
                        "called_for": group.called_for,
                        "verdicts": group.verdicts,
                        "latents": len(group.latents),
                        "random_sets": len(random) if len(group.latents) else 0,
                        "refit": refit,
                        "confounder": name,
                        "measure": measure,
                        "group": level,
                        "group_after": level,
                        **row,
                        "reason": why,
                    }


def _shortcoming(measures: Measures, group: LatentSet, random: Sequence[np.ndarray]) -> str:
    """Return what is missing or meaningless in the columns of a set that is ablated, or ``""``."""
    if st.is_constant(measures.scores(group.latents)).all():
        return "all images have the same score after the ablation, so the AUROC is 0.5"
    if not random:
        return f"no random set: fewer than {len(group.latents)} other latents vary"
    return ""


def _compared(
    measures: Measures, group: LatentSet, random: Sequence[np.ndarray], name: str
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the columns of each (measure, level) for one set of latents and one confounder.

    The columns hold the AUROC before and after the ablation, their difference, and the difference
    after ablations of the `random` sets.
    """
    latents = group.latents
    before, drawn = measures.values(NOTHING, name), measures.draws(NOTHING, name)
    after, drawn_after = measures.values(latents, name), measures.draws(latents, name)
    others = [measures.values(one, name) for one in random] if len(latents) else []
    worst, worst_after = measures.worst(NOTHING, name), measures.worst(latents, name)
    result = {}
    for key, value in before.items():
        found = {"before": (value, drawn[key])}
        if len(latents):
            found["after"] = after[key], drawn_after[key]
            found["difference"] = after[key] - value, drawn_after[key] - drawn[key]
        if others:
            differences = np.array([other[key][0] for other in others]) - value
            found["random_difference"] = differences.mean(keepdims=True), differences[None]
        row: dict[str, Any] = _numbers(found)
        if key[0] in worst:
            row |= {"group": worst[key[0]], "group_after": worst_after[key[0]]}
        result[key] = row
    return result


_NUMBERS = ("before", "after", "difference", "random_difference")


def _numbers(found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Return columns of values and intervals, from values [1] and samples [1, draws] by name."""
    row = {f"{name}{end}": np.nan for name in _NUMBERS for end in ("", "_low", "_high")}
    for name, (value, samples) in found.items():
        row[name] = float(value[0])
        row[f"{name}_low"], row[f"{name}_high"] = st.interval(samples[0])
    return row
