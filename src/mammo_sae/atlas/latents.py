"""The latents of one SAE that get a page with images: their images and their heat maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mammo_sae.analysis.cases import Identity, labelled_images, labels
from mammo_sae.atlas.choice import Shown, choose_images, choose_latents, main_concepts
from mammo_sae.atlas.heat import packed, read_maps
from mammo_sae.atlas.records import matches, sections, shown_images
from mammo_sae.atlas.settings import AtlasSettings
from mammo_sae.atlas.tables import Tables
from mammo_sae.stores.codes import CodesReader

BINS = 20  # of a latent's histogram


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
        Pseudonym -> number of times that the image is shown.
    """

    latents: np.ndarray
    records: Mapping[int, dict[str, Any]]
    tops: Mapping[int, float]
    images: Mapping[str, int]


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
    latents = choose_latents(
        tables.of("latents", identity),
        tables.of("verdicts", identity),
        tables.of("alignment", identity),
        tables.of("effects", identity),
        settings.latents,
    )
    return detail_of(settings, tables, identity, reader, cases, split, latents)


def detail_of(
    settings: AtlasSettings,
    tables: Tables,
    identity: Identity,
    reader: CodesReader,
    cases: pd.DataFrame,
    split: str,
    latents: np.ndarray,
) -> Detailed:
    """Return the given latents of one SAE with their images. The rest is as in `detail`."""
    rows = tables.of("latents", identity)
    concepts = main_concepts(rows[rows["latent"].isin(latents)])
    shown: dict[int, Shown] = {}
    tops: dict[int, float] = {}
    histograms: dict[int, dict[str, Any]] = {}
    for concept in dict.fromkeys(concepts.values()):
        mine = np.array([latent for latent in latents if concepts[int(latent)] == concept])
        found = _of_concept(settings, reader, cases, split, concept, mine, rows["score"].iloc[0])
        for latent, (images, top, histogram) in found.items():
            shown[latent], tops[latent], histograms[latent] = images, top, histogram
    wanted: dict[int, list[int]] = {}
    for latent, images in shown.items():
        for example in (e for group in images.groups.values() for e in group):
            wanted.setdefault(example.position, []).append(latent)
    heat: dict[int, dict[int, str]] = {int(latent): {} for latent in latents}
    for position, latent, activation in read_maps(reader, wanted):
        heat[latent][position] = packed(activation, tops[latent])
    known = sections(tables, identity, latents)
    partners = matches(tables, identity, latents)
    ids = reader.image_ids
    records = {
        latent: {
            "latent": latent,
            "concept": shown[latent].concept,
            "top": tops[latent],
            "histogram": histograms[latent],
            "sections": {**known[latent], **partners[latent]},
            "groups": shown_images(shown[latent], heat[latent], ids),
        }
        for latent in map(int, latents)
    }
    uses = {ids[position]: len(latents_of) for position, latents_of in wanted.items()}
    return Detailed(latents, records, tops, uses)


def _of_concept(
    settings: AtlasSettings,
    reader: CodesReader,
    cases: pd.DataFrame,
    split: str,
    concept: str,
    latents: np.ndarray,
    score: str,
) -> dict[int, tuple[Shown, float, dict[str, Any]]]:
    """Return latent -> its images, its highest activation and its histogram.

    All latents have the same main concept.
    """
    known = labelled_images(cases, concept, split)
    truth = labels(cases, concept, known)
    patients = cases["patient_id"].to_numpy()[known]
    ids = [reader.image_ids[position] for position in known]
    scores = reader.pooled(score, ids, latents)
    found = {}
    for number, latent in enumerate(latents):
        column = scores[:, number]
        groups = choose_images(column, truth, patients, settings.examples, known)
        top = float(column.max(initial=0))
        found[int(latent)] = (Shown(concept, groups), top, histogram_of(column, truth, top))
    return found


def histogram_of(scores: np.ndarray, truth: np.ndarray, top: float) -> dict[str, Any]:
    """Return numbers of images by activation: without any, and in `BINS` equal bins up to `top`.

    Parameters
    ----------
    scores : [n]
        Activation of each image.
    truth : [n] bool
        Label of the latent's main concept. Positive and negative images are counted apart.
    top
        Highest activation.
    """
    found: dict[str, Any] = {}
    for name, mine in (("positive", scores[truth]), ("negative", scores[~truth])):
        fires = mine[mine > 0]
        counts, _ = np.histogram(fires, BINS, (0.0, top if top > 0 else 1.0))
        found[name] = {"silent": len(mine) - len(fires), "counts": counts.tolist()}
    return found
