"""What can be read from a layer: probes for every concept and confounder.

Features are an image's mean embedding over its cells (``embedding``) and its pooled codes
(``codes``), standardised on the discovery split. Probes, fitted there:

- ``l2``: logistic regression with an L2 penalty, its strength chosen by the AUROC of
  cross-validation over patients (Alain and Bengio 2016);
- ``sparse``: k latents, those of largest standardised mean difference, and a logistic regression on
  them (k-sparse probing, Gurnee et al., arXiv 2305.01610), which tells a concept that few latents
  carry from one that many share.

Scores are AUROCs on other splits with patient-bootstrap intervals, one row per probe, target and
split. A column with several levels is read level by level against the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from mammo_sae.analysis import cases as case
from mammo_sae.analysis import statistics as st
from mammo_sae.analysis.confounds import levels
from mammo_sae.analysis.settings import ReadoutSettings
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.tables import write_table

_SPARSE_PENALTY = 1.0  # k coefficients over hundreds of images need little shrinkage


def run(
    settings: ReadoutSettings,
    *,
    identity: case.Identity,
    images: Path,
    embeddings: Sequence[Path],
    codes: Path,
    concepts: Sequence[str],
    output: Path,
) -> None:
    """Write one SAE's probes, one row per (target, level, features, probe, k, split).

    Parameters
    ----------
    images
        Image table.
    embeddings
        Manifests of the layer's embeddings, all shards.
    codes
        Manifest of the SAE's codes.
    """
    reader = CodesReader(codes)
    cases = case.read_cases(images, reader.image_ids)
    pooled = reader.max() if settings.score == "max" else reader.mean()
    features = {
        "embedding": mean_embeddings(embeddings, identity.layer, reader.image_ids),
        "codes": pooled,
    }
    parts = []
    for kind, name, level, labels in targets(settings, cases, concepts):
        part = read(settings, cases, features, labels)
        for place, value in enumerate((kind, name, level)):
            part.insert(place, ("kind", "target", "level")[place], value)
        parts.append(part)
    write_table(identity.label(pd.concat(parts, ignore_index=True)), output)


def mean_embeddings(manifests: Sequence[Path], layer: str, image_ids: Sequence[str]) -> np.ndarray:
    """Return float32 [n, d], each image's mean embedding, in the order of `image_ids`."""
    reader = EmbeddingReader(manifests, layer, image_ids)
    means = np.empty((len(reader), reader.grid.channels), np.float32)
    for positions, batch in reader.batches(64):
        means[positions] = batch.mean(axis=(1, 2), dtype=np.float32)
    place = {image: i for i, image in enumerate(reader.image_ids)}
    return means[[place[image] for image in image_ids]]


def targets(
    settings: ReadoutSettings, cases: pd.DataFrame, concepts: Sequence[str]
) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Yield (kind, column, level, labels float [n] with NaN where unknown) of what to read."""
    for concept in concepts:
        yield "concept", concept, "1", cases[concept].to_numpy(dtype=np.float64, na_value=np.nan)
    for kind, names in (
        ("acquisition", settings.acquisition),
        ("anatomical", settings.anatomical),
    ):
        for name in names:
            if name not in cases:
                yield kind, name, "", np.full(len(cases), np.nan)
                continue
            found = levels(cases[name], settings.max_levels)
            unknown = found.code < 0
            for level, label in enumerate(found.names):
                if len(found.names) == 2 and level == 0:
                    continue  # the other level's mirror image
                yield kind, name, label, np.where(unknown, np.nan, found.code == level)


def read(
    settings: ReadoutSettings,
    cases: pd.DataFrame,
    features: dict[str, np.ndarray],
    labels: np.ndarray,
) -> pd.DataFrame:
    """Return the rows of one target; `features` [n, f] by name, `labels` [n] 0, 1 or NaN."""
    patients = cases["patient_id"].to_numpy()
    known = ~np.isnan(labels)
    found = np.flatnonzero(known & (cases["split"] == settings.discovery).to_numpy())
    reason = st.why_not_estimable(labels[found] == 1)
    rows = []
    for source, values in features.items():
        probes = [("l2", 0), *(("sparse", k) for k in settings.k if source == "codes")]
        if not reason:
            fitted = _standardised(values, found)
        for probe, k in probes:
            scores, penalty = np.full(len(labels), np.nan), np.nan
            if not reason:
                truth = labels[found] == 1
                fit = _ridge_probe if probe == "l2" else _sparse_probe
                scores, penalty = fit(settings, fitted, found, truth, patients[found], k)
            rows.extend(
                {
                    "features": source,
                    "probe": probe,
                    "k": pd.NA if probe == "l2" else k,
                    "penalty": penalty,
                    "split": split,
                    **_score(settings, cases, labels, scores, split, reason),
                }
                for split in settings.splits
            )
    return pd.DataFrame(rows).astype({"k": "Int32"})


def _standardised(values: np.ndarray, found: np.ndarray) -> np.ndarray:
    mean = values[found].mean(axis=0, dtype=np.float64)
    spread = values[found].std(axis=0, dtype=np.float64)
    varies = spread > 1e-12
    return (values[:, varies] - mean[varies]) / spread[varies]


def _ridge_probe(
    settings: ReadoutSettings,
    features: np.ndarray,
    found: np.ndarray,
    truth: np.ndarray,
    patients: np.ndarray,
    k: int,
) -> tuple[np.ndarray, float]:
    """Scores [n] of an L2 logistic regression, and its penalty, chosen over patients.

    The features are rotated onto the span of the discovery images first: an L2 penalty does not see
    the rotation, and thousands of latents become at most as many directions as images.
    """
    _, _, directions = np.linalg.svd(features[found], full_matrices=False)
    rotated = features @ directions.T
    own = rotated[found]
    totals = np.zeros(len(settings.penalties))
    folds = min(settings.folds, len(np.unique(patients)))
    for train, held in GroupKFold(folds).split(own, truth, patients):
        if truth[train].all() or not truth[train].any() or st.why_not_estimable(truth[held], 1):
            continue
        for i, penalty in enumerate(settings.penalties):
            model = _logistic(penalty).fit(own[train], truth[train])
            totals[i] += st.auroc(model.decision_function(own[held]), truth[held])
    best = settings.penalties[int(totals.argmax())]
    return _logistic(best).fit(own, truth).decision_function(rotated), best


def _sparse_probe(
    settings: ReadoutSettings,
    features: np.ndarray,
    found: np.ndarray,
    truth: np.ndarray,
    patients: np.ndarray,
    k: int,
) -> tuple[np.ndarray, float]:
    difference = np.abs(st.standardised_mean_difference(features[found], truth))
    chosen = np.argsort(-np.nan_to_num(difference), kind="stable")[:k]
    model = _logistic(_SPARSE_PENALTY).fit(features[np.ix_(found, chosen)], truth)
    return model.decision_function(features[:, chosen]), _SPARSE_PENALTY


def _logistic(penalty: float) -> LogisticRegression:
    return LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000)


def _score(
    settings: ReadoutSettings,
    cases: pd.DataFrame,
    labels: np.ndarray,
    scores: np.ndarray,
    split: str,
    reason: str,
) -> dict[str, object]:
    rows = np.flatnonzero(~np.isnan(labels) & (cases["split"] == split).to_numpy())
    truth = labels[rows] == 1
    here = st.why_not_estimable(truth)
    why = f"{settings.discovery}: {reason}" if reason else f"{split}: {here}" if here else ""
    if why:
        return {"auroc": np.nan, "auroc_low": np.nan, "auroc_high": np.nan, "reason": why}
    low, high = st.patient_bootstrap(
        st.auroc,
        scores[rows],
        truth,
        cases["patient_id"].to_numpy()[rows],
        settings.bootstrap_draws,
        settings.seed,
    )
    value = st.auroc(scores[rows], truth)
    return {"auroc": value, "auroc_low": low, "auroc_high": high, "reason": ""}
