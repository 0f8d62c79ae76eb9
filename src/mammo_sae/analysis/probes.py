"""Step: probe a layer for every concept and confounder.

Features are an image's mean embedding over its cells (``embedding``) and its pooled codes
(``codes``). They are standardised on the discovery split, and the probes are fitted on it:

- ``l2``: logistic regression with an L2 penalty (Alain and Bengio 2016);
- ``l1``: logistic regression on codes with an L1 penalty; ``k`` is the number of latents whose
  weight is not 0;
- ``pca``: L2 on the first ``k`` principal components of the discovery split's embeddings;
- ``sparse``: a logistic regression on the k latents of largest standardised mean difference
  (k-sparse probing, Gurnee et al., arXiv 2305.01610). It shows whether a few latents suffice to
  predict a concept.

Penalties are chosen by the AUROC of cross-validation over the discovery split's patients. Scores
are AUROCs on other splits with patient-bootstrap intervals, one row per probe, target and split.

If a column has more than two levels, each level is probed against all others. The rows with level
``macro`` have the mean of these AUROCs over the levels that can be estimated. Ordered levels are
also probed as one scale, in the rows with level ``ordered``. Their model is the proportional odds
model (`mammo_sae.analysis.ordinal`), and their score is the concordance, which for two levels
equals the AUROC.

The discovery split can be scored too, by nested cross-validation: every choice is made again
without the patients that are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis.columns import SAID, candidates, covariates_of
from mammo_sae.analysis.levels import levels
from mammo_sae.analysis.ordinal import concordance, proportional_odds
from mammo_sae.analysis.penalised import (
    Model,
    best_fit,
    lasso,
    patient_folds,
    ridge,
    rotated,
    standardised,
)
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.tables import write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import ProbesSettings

ONE_SIDED = "without one fold of patients, only one class or one patient is left to fit on"
_SPARSE_PENALTY = 1.0  # k coefficients for hundreds of images need little shrinkage


def run(
    settings: ProbesSettings,
    *,
    identity: case.Identity,
    images: Path,
    embeddings: Sequence[Path],
    codes: Path,
    concepts: Sequence[str],
    output: Path,
) -> list[Path]:
    """Probe a layer's embeddings and codes for concepts and confounders.

    Parameters
    ----------
    images
        Image table.
    embeddings
        Manifests of the layer's embeddings, all shards.
    codes
        Manifest of the SAE's codes.
    concepts
        Columns of the image table.
    output
        Table to write (.parquet): a row per target, level, features, probe, k and split.
    """
    reader = CodesReader(codes)
    cases = case.read_cases(images, reader.image_ids)
    splits = (settings.discovery, *settings.splits)
    anatomical: Sequence[str] | None = settings.anatomical
    if anatomical is None:
        anatomical = candidates(cases, ("density",), splits, settings.max_levels)
    acquisition: Sequence[str] | None = settings.acquisition
    if acquisition is None:
        names = [*covariates_of(cases, concepts), *SAID]
        found = candidates(cases, names, splits, settings.max_levels)
        acquisition = [name for name in found if name not in anatomical]
    confounders = {"acquisition": acquisition, "anatomical": anatomical}
    pooled = reader.pooled(settings.score)
    features = {
        "embedding": mean_embeddings(embeddings, identity.layer, reader.image_ids),
        "codes": pooled,
    }
    probes = [Probe(settings, cases, name, values) for name, values in features.items()]
    parts = []
    sought = targets(settings, cases, concepts, confounders)
    for (kind, name), group in groupby(sought, lambda t: t[:2]):
        levels_read = [(level, labels) for _, _, level, labels in group]
        for level, part in read(settings, cases, probes, levels_read):
            for place, value in enumerate((kind, name, level)):
                part.insert(place, ("kind", "target", "level")[place], value)
            parts.append(part)
        if name in settings.ordered and len(levels_read) > 1:
            part = read_ordered(settings, cases, probes, cases[name])
            for place, value in enumerate((kind, name, "ordered")):
                part.insert(place, ("kind", "target", "level")[place], value)
            parts.append(part)
    write_table(identity.label(pd.concat(parts, ignore_index=True)), output)
    return [output]


def mean_embeddings(manifests: Sequence[Path], layer: str, image_ids: Sequence[str]) -> np.ndarray:
    """Return float32 [n, d], each image's mean embedding, in the order of `image_ids`."""
    reader = EmbeddingReader(manifests, layer, image_ids)
    means = np.empty((len(reader), reader.grid.channels), np.float32)
    for positions, batch in reader.batches(64):
        means[positions] = batch.mean(axis=(1, 2), dtype=np.float32)
    place = {image: i for i, image in enumerate(reader.image_ids)}
    return means[[place[image] for image in image_ids]]


def targets(
    settings: ProbesSettings,
    cases: pd.DataFrame,
    concepts: Sequence[str],
    confounders: Mapping[str, Sequence[str]],
) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Yield (kind, column, level, labels) of each target; labels are float [n], NaN: unknown.

    `confounders` maps each kind, acquisition and anatomical, to its columns.
    """
    for concept in concepts:
        yield "concept", concept, "1", cases[concept].to_numpy(dtype=np.float64, na_value=np.nan)
    for kind, names in confounders.items():
        for name in names:
            if name not in cases or cases[name].isna().all():
                yield kind, name, "", np.full(len(cases), np.nan)
                continue
            found = levels(cases[name], settings.max_levels)
            unknown = found.code < 0
            for level, label in enumerate(found.names):
                if len(found.names) == 2 and level == 0:
                    continue  # the second level gives the same probe with the classes exchanged
                yield kind, name, label, np.where(unknown, np.nan, found.code == level)


def read(
    settings: ProbesSettings,
    cases: pd.DataFrame,
    probes: Sequence[Probe],
    targets: Sequence[tuple[str, np.ndarray]],
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (level, rows of the table) for each level of one column, and then for ``macro``.

    `targets` holds (level, labels) of each level; labels [n] are 0, 1 or NaN (unknown).
    """
    drawn: dict[tuple[object, ...], list[tuple[float, np.ndarray]]] = {}
    for level, labels in targets:
        known = ~np.isnan(labels)
        found = np.flatnonzero(known & (cases["split"] == settings.discovery).to_numpy())
        few = st.why_not_estimable(labels[found] == 1, cases["patient_id"].to_numpy()[found])
        rows = []
        for probe in probes:
            reason = few or probe.why_not_fitted(found)
            for name, k, fit in probe.kinds():
                scores, penalty, used = np.full(len(labels), np.nan), np.nan, k
                if not reason:
                    scores, penalty, used = fit(found, labels[found] == 1, k)
                    if settings.discovery in settings.splits:
                        scores[found] = probe.nested(fit, found, labels[found] == 1, k)
                for split in settings.splits:
                    row = {"features": probe.features, "probe": name, "k": used, "split": split}
                    score, draws = _score(settings, cases, labels, scores, split, reason)
                    rows.append({**row, "penalty": penalty, **score})
                    if not score["reason"]:
                        key = (probe.features, name, k, split)
                        drawn.setdefault(key, []).append((score["auroc"], draws))
        yield level, _frame(rows)
    if len(targets) > 1 and drawn:
        yield "macro", _frame([_macro(key, parts) for key, parts in drawn.items()])


def read_ordered(
    settings: ProbesSettings, cases: pd.DataFrame, probes: Sequence[Probe], column: pd.Series
) -> pd.DataFrame:
    """Probe one column as an ordered scale, and return its rows of the table `probes`."""
    scale = levels(column, settings.max_levels)
    known = scale.code >= 0
    found = np.flatnonzero(known & (cases["split"] == settings.discovery).to_numpy())
    patients = cases["patient_id"].to_numpy()
    few = _why_not_ordered(scale.code[found], patients[found])
    rows = []
    for probe in probes:
        reason = few or probe.why_not_fitted(found)
        scores, penalty = np.full(len(cases), np.nan), np.nan
        if not reason:
            scores, penalty, _ = probe.ordered(found, scale.code[found], 0)
            if settings.discovery in settings.splits:
                scores[found] = probe.nested(probe.ordered, found, scale.code[found], 0)
        for split in settings.splits:
            here = np.flatnonzero(known & (cases["split"] == split).to_numpy())
            why = f"{settings.discovery}: {reason}" if reason else ""
            if not why and (few_here := _why_not_ordered(scale.code[here], patients[here])):
                why = f"{split}: {few_here}"
            if not why and np.isnan(scores[here]).any():
                why = f"{split}: {ONE_SIDED}"
            value = low = high = np.nan
            if not why:
                weights = st.patient_weights(
                    patients[here], settings.bootstrap_draws, settings.seed
                )
                low, high = st.interval(concordance(scores[here], scale.code[here], weights))
                value = concordance(scores[here], scale.code[here])
            rows.append(
                {
                    "features": probe.features,
                    "probe": "ordinal",
                    "k": 0,
                    "split": split,
                    "penalty": penalty,
                    "auroc": value,
                    "auroc_low": low,
                    "auroc_high": high,
                    "reason": why,
                }
            )
    return _frame(rows)


def _why_not_ordered(code: np.ndarray, patients: np.ndarray) -> str:
    """Return why images of levels `code` [n] allow no ordered probe, or ``""``."""
    count = st.patients_per_group(code, patients, 1)
    enough = int((count >= st.MIN_POSITIVES).sum())
    return "" if enough >= 2 else f"fewer than 2 levels with {st.MIN_POSITIVES} patients"


def _macro(key: tuple[object, ...], parts: list[tuple[float, np.ndarray]]) -> dict[str, object]:
    """Return the row of the mean AUROC over levels. All levels have the same bootstrap draws."""
    low, high = st.interval(np.mean([draws for _, draws in parts], axis=0))
    return {
        **dict(zip(("features", "probe", "k", "split"), key, strict=True)),
        "penalty": np.nan,
        "auroc": float(np.mean([value for value, _ in parts])),
        "auroc_low": low,
        "auroc_high": high,
        "reason": "",
    }


def _frame(rows: list[dict[str, object]]) -> pd.DataFrame:
    columns = ["features", "probe", "k", "split", "penalty"]
    columns += ["auroc", "auroc_low", "auroc_high", "reason"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["k"] = pd.array([k if k else pd.NA for k in frame["k"]], "Int32")
    return frame


Fit = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, float, int]]


class Probe:
    """The probes of one set of features, `values` [n, f].

    Features that several probes use are standardised and rotated once. A `Fit` gets the positions
    of the images to fit on, their labels, and k. It returns the scores [n] of all images, the
    penalty, and the number of features used (0: all).
    """

    def __init__(
        self, settings: ProbesSettings, cases: pd.DataFrame, features: str, values: np.ndarray
    ) -> None:
        self.features = features
        self._settings, self._values = settings, values
        self._patients = cases["patient_id"].to_numpy()
        self._seen = np.empty(0, np.int64)
        self._standard = self._rotated = values

    def kinds(self) -> list[tuple[str, int, Fit]]:
        """Return (name, k, fit) of each probe."""
        if self.features == "embedding":
            k = min(self._settings.components, self._values.shape[1])
            return [("l2", 0, self._ridge), ("pca", k, self._ridge)]
        l1: list[tuple[str, int, Fit]] = [("l1", 0, self._lasso)]
        sparse: list[tuple[str, int, Fit]] = [("sparse", k, self._few) for k in self._settings.k]
        return [
            ("l2", 0, self._ridge),
            *(l1 if self._settings.l1_penalties else []),
            *sparse,
        ]

    def ordered(
        self, found: np.ndarray, level: np.ndarray, k: int
    ) -> tuple[np.ndarray, float, int]:
        """Fit proportional odds. The penalty is chosen by concordance over the folds."""
        self._prepare(found)
        names, code = np.unique(level, return_inverse=True)
        features, penalties = self._rotated, self._settings.penalties
        own, patients = features[found], self._patients[found]
        totals = np.zeros(len(penalties))
        for train, held in patient_folds(patients, self._settings.folds):
            if len(np.unique(code[train])) < len(names) or len(np.unique(code[held])) < 2:
                continue
            for i, penalty in enumerate(penalties):
                direction = proportional_odds(own[train], code[train], penalty)
                totals[i] += concordance(own[held] @ direction, code[held])
        best = penalties[int(totals.argmax())]
        return features @ proportional_odds(own, code, best), best, k

    def nested(self, fit: Fit, found: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
        """Return scores [len(found)] by cross-validation over patients.

        Each image is scored by a fit on other patients. All scores are NaN if a fit would have only
        one patient or one class.
        """
        scores = np.empty(len(found))
        for train, held in patient_folds(self._patients[found], self._settings.outer_folds):
            one_patient = len(np.unique(self._patients[found[train]])) < 2
            if one_patient or len(np.unique(truth[train])) < 2:
                return np.full(len(found), np.nan)
            all_scores, _, _ = fit(found[train], truth[train], k)
            scores[held] = all_scores[found[held]]
        return scores

    def why_not_fitted(self, found: np.ndarray) -> str:
        """Return why no probe can be fitted on the images `found`, or ``""``."""
        if len(np.unique(self._patients[found])) < 2:
            return "only one patient is labelled, and the choice of a penalty needs two"
        if st.is_constant(self._values[found]).all():
            return f"every feature of the {self.features} is the same on every image"
        return ""

    def _prepare(self, found: np.ndarray) -> None:
        """Standardise and rotate the features on the images `found`.

        Nothing is computed if `found` is the same as in the last call.
        """
        if np.array_equal(found, self._seen):
            return
        self._seen, self._standard = found, standardised(self._values, found)
        self._rotated = rotated(self._standard, found)

    def _ridge(self, found: np.ndarray, truth: np.ndarray, k: int) -> tuple[np.ndarray, float, int]:
        self._prepare(found)
        features = self._rotated[:, :k] if k else self._rotated
        scores, best, _ = self._chosen(features, found, truth, self._settings.penalties, ridge)
        return scores, best, k

    def _lasso(self, found: np.ndarray, truth: np.ndarray, k: int) -> tuple[np.ndarray, float, int]:
        self._prepare(found)
        return self._chosen(self._standard, found, truth, self._settings.l1_penalties, lasso)

    def _few(self, found: np.ndarray, truth: np.ndarray, k: int) -> tuple[np.ndarray, float, int]:
        self._prepare(found)
        difference = np.abs(st.standardised_mean_difference(self._standard[found], truth))
        chosen = np.argsort(-np.nan_to_num(difference), kind="stable")[:k]
        features = self._standard[:, chosen]
        model = ridge(_SPARSE_PENALTY).fit(features[found], truth)
        return model.decision_function(features), _SPARSE_PENALTY, k

    def _chosen(
        self,
        features: np.ndarray,
        found: np.ndarray,
        truth: np.ndarray,
        penalties: Sequence[float],
        model: Model,
    ) -> tuple[np.ndarray, float, int]:
        patients, folds = self._patients[found], self._settings.folds
        best, fitted = best_fit(features[found], truth, patients, penalties, folds, model)
        used = int((fitted.coef_ != 0).sum())
        return fitted.decision_function(features), best, used


def _score(
    settings: ProbesSettings,
    cases: pd.DataFrame,
    labels: np.ndarray,
    scores: np.ndarray,
    split: str,
    reason: str,
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the columns for the AUROC on `split`, and its bootstrap draws [draws].

    The columns are the AUROC, its interval, and the reason if it can't be estimated.
    """
    rows = np.flatnonzero(~np.isnan(labels) & (cases["split"] == split).to_numpy())
    truth = labels[rows] == 1
    patients = cases["patient_id"].to_numpy()[rows]
    here = st.why_not_estimable(truth, patients)
    if not here and not reason and np.isnan(scores[rows]).any():
        here = ONE_SIDED
    why = f"{settings.discovery}: {reason}" if reason else f"{split}: {here}" if here else ""
    if why:
        row = {"auroc": np.nan, "auroc_low": np.nan, "auroc_high": np.nan, "reason": why}
        return row, np.empty(0)
    weights = st.patient_weights(patients, settings.bootstrap_draws, settings.seed)
    draws = st.auroc(scores[rows], truth, weights)
    low, high = st.interval(draws)
    value = st.auroc(scores[rows], truth)
    return {"auroc": value, "auroc_low": low, "auroc_high": high, "reason": ""}, draws
