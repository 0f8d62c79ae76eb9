"""Step: fit a linear probe, the head of an encoder that is not trained further."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.encoders.labels import concept_labels
from mammo_sae.encoders.network import load_classifier
from mammo_sae.encoders.plans.plan import POOLED
from mammo_sae.encoders.pooled import read_pooled
from mammo_sae.errors import InputError
from mammo_sae.progress import progress
from mammo_sae.statistics import centre
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
    stored, features = read_pooled(embeddings, list(dict.fromkeys(learnt)))
    order = {image: row for row, image in enumerate(stored)}
    standardised = features[[order[image] for image in learnt]].astype(np.float64)
    del features
    mean, deviation = centre(standardised)
    deviation[deviation == 0] = 1.0
    standardised /= deviation
    rows = dict(published)
    for concept, column in progress(
        zip(fitted, labels.T, strict=True), total=len(fitted), label="probe"
    ):
        known = ~np.isnan(column)
        solver = LogisticRegression(
            C=settings.c, max_iter=settings.max_iterations, class_weight="balanced"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # raised as an error below
            rows_known = standardised if known.all() else standardised[known]
            fit = solver.fit(rows_known, column[known])
        if fit.n_iter_[0] >= settings.max_iterations:
            raise InputError(
                f"the linear probe of {concept} did not converge in {settings.max_iterations} "
                "iterations; raise max_iterations or lower c"
            )
        weight = fit.coef_[0] / deviation
        rows[concept] = weight, fit.intercept_[0] - weight @ mean
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


def _published(encoder: Path) -> dict[str, tuple[np.ndarray, float]]:
    """Return weight [d] and bias of the encoder's own classifier, by concept."""
    classifier = load_classifier(encoder)
    if classifier is None:
        return {}
    names, weight, bias = classifier
    return dict(zip(names, zip(weight.numpy(), bias.tolist(), strict=True), strict=True))
