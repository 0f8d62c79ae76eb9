"""The latents of one SAE that get a page with images: their images and their heat maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mammo_sae.analysis.cases import Identity, labelled_images, labels
from mammo_sae.atlas.choice import Shown, choose_images, choose_latents, main_concept
from mammo_sae.atlas.heat import packed, read_maps
from mammo_sae.atlas.records import sections, shown_images
from mammo_sae.atlas.settings import AtlasSettings
from mammo_sae.atlas.tables import Tables
from mammo_sae.stores.codes import CodesReader


@dataclass(frozen=True)
class Detailed:
    """The latents of one SAE with their images.

    Attributes
    ----------
    latents
        The latents, ascending.
    records
        Latent -> what its page shows.
    tops
        Latent -> its highest activation in the split.
    images
        Pseudonyms of all images that are shown.
    """

    latents: np.ndarray
    records: Mapping[int, dict[str, Any]]
    tops: Mapping[int, float]
    images: set[str]


def detail(
    settings: AtlasSettings,
    tables: Tables,
    identity: Identity,
    reader: CodesReader,
    cases: pd.DataFrame,
    split: str,
) -> Detailed:
    """Return the latents of one SAE that get a page with images.

    Parameters
    ----------
    settings
        Numbers of latents and images.
    tables
        Tables of the run.
    identity, reader
        The SAE and its codes.
    cases
        The image table's rows of the reader's images, in that order.
    split
        The split whose images are shown.
    """
    rows = tables.of("latents", identity)
    latents = choose_latents(
        rows,
        tables.of("verdicts", identity),
        tables.of("alignment", identity),
        tables.of("effects", identity),
        settings.latents,
    )
    concepts = {
        int(latent): main_concept(mine)
        for latent, mine in rows[rows["latent"].isin(latents)].groupby("latent", sort=True)
    }
    shown: dict[int, Shown] = {}
    tops: dict[int, float] = {}
    for concept in dict.fromkeys(concepts.values()):
        mine = np.array([latent for latent in latents if concepts[int(latent)] == concept])
        found = _of_concept(settings, reader, cases, split, concept, mine, rows["score"].iloc[0])
        for latent, (images, top) in found.items():
            shown[latent], tops[latent] = images, top
    wanted: dict[int, list[int]] = {}
    for latent, images in shown.items():
        for example in (e for group in images.groups.values() for e in group):
            wanted.setdefault(example.position, []).append(latent)
    heat: dict[int, dict[int, str]] = {int(latent): {} for latent in latents}
    for position, latent, activation in read_maps(reader, wanted):
        heat[latent][position] = packed(activation, tops[latent])
    known = sections(tables, identity, latents)
    ids = reader.image_ids
    records = {
        latent: {
            "latent": latent,
            "concept": shown[latent].concept,
            "top": tops[latent],
            "sections": known[latent],
            "groups": shown_images(shown[latent], heat[latent], ids),
        }
        for latent in map(int, latents)
    }
    return Detailed(latents, records, tops, {ids[position] for position in wanted})


def _of_concept(
    settings: AtlasSettings,
    reader: CodesReader,
    cases: pd.DataFrame,
    split: str,
    concept: str,
    latents: np.ndarray,
    score: str,
) -> dict[int, tuple[Shown, float]]:
    """Return latent -> its images and its highest activation, for latents with one main concept."""
    known = labelled_images(cases, concept, split)
    truth = labels(cases, concept, known)
    patients = cases["patient_id"].to_numpy()[known]
    ids = [reader.image_ids[position] for position in known]
    scores = reader.pooled(score, ids, latents)
    found = {}
    for number, latent in enumerate(latents):
        column = scores[:, number]
        groups = choose_images(column, truth, patients, settings.examples, known)
        found[int(latent)] = (Shown(concept, groups), float(column.max(initial=0)))
    return found
