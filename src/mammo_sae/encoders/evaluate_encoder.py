"""Step: score an encoder's predictions of each concept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics
from mammo_sae.cohorts import labels as scored
from mammo_sae.encoders.heads import load_head
from mammo_sae.encoders.plans.plan import POOLED
from mammo_sae.errors import InputError
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import EvaluationSettings

METRICS = {"auroc": statistics.auroc, "auprc": statistics.auprc}


def run(
    settings: EvaluationSettings,
    *,
    encoder_name: str,
    images: Path,
    embeddings: Sequence[Path],
    head: Path,
    predictions: Path,
    scores: Path,
) -> list[Path]:
    """Predict every image from its pooled features and score the predictions by split.

    Parameters
    ----------
    settings
        Bootstrap draws and seed.
    encoder_name
        Name of the encoder in the table.
    images
        ``images.parquet``.
    embeddings
        Manifests of the embeddings of the layer `pooled`, one per shard.
    head
        Directory of the head.
    predictions
        Table to write, one row per (image, concept): image_id, concept, logit.
    scores
        Table to write, one row per (encoder, concept, split): `labels` (image or finding), number
        of images, number scored (rows of findings, with labels by finding), positives, patients,
        auroc and auprc with their 95 % patient-bootstrap intervals, the share of positives (the
        AUPRC of chance), and the reason if the scores can't be estimated.

    Raises
    ------
    InputError
        If an image with embeddings is not in the cohort table.
    """
    trained = load_head(head)
    reader = EmbeddingReader(embeddings, POOLED)
    image_ids = reader.image_ids
    logits = np.empty((len(reader), len(trained.concepts)), np.float32)
    for places, cells in reader.batches(1024):
        logits[places] = trained.logits(cells[:, 0, 0])
    table = read_table(images).set_index("image_id")
    unknown = [image for image in image_ids if image not in table.index]
    if unknown:
        raise InputError(
            f"{images} has no row for image {unknown[0]} of the embeddings; rebuild the embeddings"
        )
    table = table.loc[image_ids]
    unit = scored.labelling(table, trained.concepts)
    rows = []
    for column, concept in enumerate(trained.concepts):
        positions = scored.labelled(table, concept)
        for split in table["split"].unique():
            chosen = positions[(table["split"] == split).to_numpy(dtype=bool)[positions]]
            counts = {"labels": unit, "images": len(np.unique(chosen))}
            rows.append(
                {"encoder": encoder_name, "concept": concept, "split": split, **counts}
                | _scores(
                    logits[chosen, column],
                    scored.truth(table, concept, chosen),
                    table["patient_id"].to_numpy()[chosen],
                    settings,
                )
            )
    write_table(
        pd.DataFrame(
            {
                "image_id": np.repeat(image_ids, len(trained.concepts)),
                "concept": np.tile(trained.concepts, len(image_ids)),
                "logit": logits.ravel(),
            }
        ),
        predictions,
    )
    rows_by_split = pd.DataFrame(rows).sort_values(["concept", "split"], ignore_index=True)
    write_table(rows_by_split, scores)
    return [predictions, scores]


def _scores(
    logits: np.ndarray, labels: np.ndarray, patients: np.ndarray, settings: EvaluationSettings
) -> dict[str, object]:
    """Return the columns of one row. Without an estimate, scores are NaN and a reason is given."""
    reason = statistics.why_not_estimable(labels, patients)
    row: dict[str, object] = {
        "scored": len(labels),
        "positives": int(labels.sum()),
        "patients": len(np.unique(patients)),
        "prevalence": float(labels.mean()) if len(labels) else float("nan"),
    }
    for name, metric in METRICS.items():
        value = low = high = float("nan")
        if not reason:
            value = metric(logits, labels)
            low, high = statistics.patient_bootstrap(
                metric, logits, labels, patients, settings.bootstrap_draws, settings.seed
            )
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row | {"reason": reason}
