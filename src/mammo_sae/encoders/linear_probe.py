"""Step: fit a linear probe, the head of an encoder that is not trained further."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.encoders.labels import concept_labels
from mammo_sae.encoders.network import load_classifier
from mammo_sae.encoders.plans.plan import POOLED
from mammo_sae.encoders.pooled import mean_embeddings
from mammo_sae.errors import InputError
from mammo_sae.regression.features import DenseRows, Standardised
from mammo_sae.regression.newton import NotMinimised
from mammo_sae.regression.penalised import balanced, logistic
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.tables import read_table

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import LinearProbeSettings


def run(
    settings: LinearProbeSettings,
    *,
    concepts: Sequence[str],
    images: Path,
    encoder: Path,
    embeddings: Sequence[Path],
    head_weights: Path,
    head_description: Path,
) -> list[Path]:
    """Fit a linear head per concept on pooled features, without changing the encoder.

    Features are standardised by the training split's mean and standard deviation, which are then
    folded into weight and bias, so that the head applies to raw features. Both classes have the
    same total weight. Images without a label for a concept are left out of its fit. If the encoder
    was published with a classifier for a concept, that classifier is used instead.

    Parameters
    ----------
    settings
        Penalty and solver.
    concepts
        Columns of the cohort table; values are 0, 1 or missing.
    images
        ``images.parquet``.
    encoder
        Directory of the encoder.
    embeddings
        Manifests of the embeddings of the layer `pooled`, one per shard.
    head_weights, head_description
        The files to write: ``head.safetensors`` and, last, ``head.json``.

    Raises
    ------
    InputError
        If a concept has no positives or negatives in training, or the solver does not converge.
    """
    published = _published(encoder)
    fitted = [concept for concept in concepts if concept not in published]
    table = read_table(images)
    # The table also lists images that the conversion left out.
    table = table[table["image_id"].isin(EmbeddingReader(embeddings, POOLED).image_ids)]
    learnt, labels = concept_labels(table, "training", fitted, images)
    rows = dict(published)
    if fitted:
        features = mean_embeddings(embeddings, POOLED, learnt)
        rows |= dict(zip(fitted, _fit(settings, features, labels, fitted), strict=True))
    weights, biases = zip(*(rows[concept] for concept in concepts), strict=True)
    save_head(
        Head(
            np.array(weights, dtype=np.float32),
            np.array(biases, dtype=np.float32),
            tuple(concepts),
        ),
        head_weights,
        head_description,
    )
    return [head_weights, head_description]


def _fit(
    settings: LinearProbeSettings, features: DenseRows, labels: np.ndarray, concepts: Sequence[str]
) -> list[tuple[np.ndarray, float]]:
    """Return weight [d] and bias of each of t concepts, from features [n, d] and labels [n, t].

    Labels are 0, 1 or NaN.
    """
    everything = np.arange(len(labels))
    standardised = Standardised.over(features, everything)
    weights = np.zeros(labels.shape)
    for column, values in enumerate(labels.T):
        known = ~np.isnan(values)
        weights[known, column] = balanced(values[known] == 1)
    penalties = np.full(len(concepts), settings.c)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", NotMinimised)
            directions, intercepts = logistic(
                standardised, everything, labels == 1, weights, penalties, settings.max_iterations
            )
    except NotMinimised as warning:
        names = ", ".join(concepts[function] for function in warning.which)
        raise InputError(
            f"the linear probe of {names} did not converge in "
            f"{settings.max_iterations} iterations; raise max_iterations or lower c"
        ) from None
    heads = []
    for direction, intercept in zip(directions.T, intercepts, strict=True):
        weight = np.zeros(features.shape[1])
        weight[standardised.kept] = direction / standardised.spread
        middle = standardised.mean @ weight[standardised.kept]
        heads.append((weight, float(intercept - middle)))
    return heads


def _published(encoder: Path) -> dict[str, tuple[np.ndarray, float]]:
    """Return weight [d] and bias of the encoder's own classifier, by concept."""
    classifier = load_classifier(encoder)
    if classifier is None:
        return {}
    names, weight, bias = classifier
    return dict(zip(names, zip(weight.numpy(), bias.tolist(), strict=True), strict=True))
