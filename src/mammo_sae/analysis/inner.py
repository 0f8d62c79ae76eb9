"""Step: interventions and attribution at an inner layer, by running the rest of the network.

The table `interventions` has the same edits as at the head: the first k latents kept or dropped.
The table `attribution` has every latent's effect, estimated by attribution and checked by ablation.
The network after an inner layer is not linear, so each edit needs a run of the rest of the network
from the stored embeddings. Therefore only a limited number of confirmation images is used. As
many discovery images choose the thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae.analysis import cases as case
from mammo_sae.analysis.attribution import attribution_table
from mammo_sae.analysis.edits import MEASURES, intervention_table, mean_codes
from mammo_sae.analysis.patching import PatchedNetwork, Reruns
from mammo_sae.analysis.thresholds import Thresholds
from mammo_sae.cohorts.units import IMAGE
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import InnerSettings

# Columns of the row of a concept for which no image can be used.
NO_EDIT = {"ranking": "", "selection": "", "mode": "", "splice": "", "k": 0} | dict.fromkeys(
    ["threshold", *(f"{measure}{end}" for measure in MEASURES for end in ("", "_low", "_high"))],
    np.nan,
)
NO_LATENT = {"latent": pd.NA, "attribution": np.nan, "ablation": np.nan, "agreement": np.nan}


def run(
    settings: InnerSettings,
    *,
    identity: case.Identity,
    images: Path,
    encoder: Path,
    head: Path,
    embeddings: Sequence[Path],
    sae: Path,
    codes: Path,
    latents: Path,
    concepts: Sequence[str],
    interventions: Path,
    attribution: Path,
) -> list[Path]:
    """Keep or drop latents at an inner layer and run the rest of the network.

    Parameters
    ----------
    images
        Image table.
    encoder, head
        Directories of the encoder and of its head.
    embeddings
        Manifests of the layer's embeddings, all shards.
    sae, codes
        `sae.json` and the manifest of its codes.
    latents
        Latents table of the same SAE, written by the step `latents`.
    concepts
        Columns of the image table.
    interventions, attribution
        Tables to write: one row per edit and concept; one row per concept and latent that fires.

    Raises
    ------
    InputError
        If the head lacks a concept.
    """
    reader = CodesReader(codes)
    cases = case.read_cases(images, reader.image_ids)
    typical, unknown = mean_codes(reader, cases, settings.discovery)
    cut = PatchedNetwork.load(encoder, head, sae, identity.layer, typical)
    table = read_table(latents)
    patients = cases["patient_id"].to_numpy()

    def rerun(concept: str, positions: np.ndarray) -> Reruns:
        ids = [reader.image_ids[i] for i in positions]
        source = EmbeddingReader(embeddings, identity.layer, ids)
        return Reruns(cut, source, reader, cases, concept, settings.batch_size, unknown)

    edited: list[pd.DataFrame] = []
    attributed: list[pd.DataFrame] = []
    for concept in concepts:
        known = case.labelled_images(cases, concept, settings.confirmation)
        chosen = case.whole_patients(patients, known, settings.images)
        if not len(chosen):
            for parts, part in ((edited, NO_EDIT), (attributed, NO_LATENT)):
                why = (
                    f"no patient of split {settings.confirmation} has a {concept} label and at "
                    f"most {settings.images} images (inner.images)"
                )
                keys = {"concept": concept, "split": settings.confirmation, "images": 0}
                parts.append(pd.DataFrame([{**keys, **part, "reason": why}]))
            continue
        others = case.labelled_images(cases, concept, settings.discovery)
        others = case.whole_patients(patients, others, settings.images)
        edits = rerun(concept, chosen)
        thresholds = Thresholds(rerun(concept, others) if len(others) else None, settings.discovery)
        ranked = table[table["concept"] == concept].sort_values("latent")
        for parts, part in (
            (edited, intervention_table(settings, edits, thresholds, ranked)),
            (attributed, attribution_table(settings, edits)),
        ):
            part.insert(0, "concept", concept)
            part.insert(1, "split", settings.confirmation)
            part.insert(2, "labels", IMAGE)
            part.insert(3, "images", len(chosen))
            parts.append(part)
    for path, parts in ((interventions, edited), (attribution, attributed)):
        write_table(identity.label(pd.concat(parts, ignore_index=True)), path)
    return [interventions, attribution]
