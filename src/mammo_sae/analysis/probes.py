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
model (`mammo_sae.regression.ordinal`), and their score is the concordance, which for two levels
equals the AUROC.

The discovery split can be scored too, by nested cross-validation: every choice is made again
without the patients that are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis.columns import SAID, candidates, covariates_of
from mammo_sae.analysis.levels import levels
from mammo_sae.encoders.pooled import mean_embeddings
from mammo_sae.regression.features import DenseRows, Matrix, SparseRows, Standardised, row_blocks
from mammo_sae.regression.ordinal import concordance, proportional_odds
from mammo_sae.regression.penalised import best_fits, patient_folds, ridge
from mammo_sae.stores.codes import CodesReader
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
    codes_blocks = (reader.pooled(settings.score, block) for block in reader.image_blocks())
    features: dict[str, Matrix] = {
        "embedding": mean_embeddings(embeddings, identity.layer, reader.image_ids),
        "codes": SparseRows(codes_blocks),
    }
    probes = [Probe(settings, cases, name, values) for name, values in features.items()]
    parts = []
    sought = list(targets(settings, cases, concepts, confounders))
    scored = iter(score(settings, cases, probes, [labels for *_, labels in sought]))
    for (kind, name), group in groupby(sought, lambda t: t[:2]):
        levels_read = [level for _, _, level, _ in group]
        for level, part in rows_of(levels_read, [next(scored) for _ in levels_read]):
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


@dataclass(frozen=True)
class Score:
    """A probe's row of the table for one target and split, and the bootstrap draws of its AUROC.

    `key` is (features, probe, k, split), with the k that was asked for.
    """

    key: tuple[str, str, int, str]
    row: dict[str, Any]
    draws: np.ndarray


def score(
    settings: ProbesSettings,
    cases: pd.DataFrame,
    probes: Sequence[Probe],
    targets: Sequence[np.ndarray],
) -> list[list[Score]]:
    """Return the scores of each target, whose labels [n] are 0, 1 or NaN (unknown).

    Targets that are known for the same images are fitted together.
    """
    discovery = (cases["split"] == settings.discovery).to_numpy()
    patients = cases["patient_id"].to_numpy()
    known = [np.flatnonzero(~np.isnan(labels) & discovery) for labels in targets]
    few = [
        st.why_not_estimable(labels[found] == 1, patients[found])
        for labels, found in zip(targets, known, strict=True)
    ]
    groups: dict[bytes, list[int]] = {}
    for target, found in enumerate(known):
        groups.setdefault(found.tobytes(), []).append(target)
    result: list[list[Score]] = [[] for _ in targets]
    for members in groups.values():
        found = known[members[0]]
        for probe in probes:
            unfit = probe.why_not_fitted(found)
            fitted = [target for target in members if not few[target] and not unfit]
            truths = np.stack(
                [np.zeros(len(found), bool)] + [targets[t][found] == 1 for t in fitted]
            )
            for name, k, fit in probe.kinds():
                fits = probe.scores(fit, found, truths[1:].T, k)
                for target in members:
                    nothing = Fitted(np.full(len(cases), np.nan), np.nan, k)
                    one = fits[fitted.index(target)] if target in fitted else nothing
                    for split in settings.splits:
                        row, draws = _score(
                            settings,
                            cases,
                            targets[target],
                            one.scores,
                            split,
                            few[target] or unfit,
                        )
                        row = {"k": one.used, "split": split, "penalty": one.penalty, **row}
                        row = {"features": probe.features, "probe": name, **row}
                        key = (probe.features, name, k, split)
                        result[target].append(Score(key, row, draws))
    return result


def rows_of(
    levels: Sequence[str], scores: Sequence[Sequence[Score]]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (level, rows of the table) for each level of one column, and then for ``macro``."""
    drawn: dict[tuple[object, ...], list[tuple[float, np.ndarray]]] = {}
    for level, found in zip(levels, scores, strict=True):
        for one in found:
            if not one.row["reason"]:
                drawn.setdefault(one.key, []).append((one.row["auroc"], one.draws))
        yield level, _frame([one.row for one in found])
    if len(levels) > 1 and drawn:
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
            [fitted] = probe.scores(probe.ordered, found, scale.code[found][:, None], 0)
            scores, penalty = fitted.scores, fitted.penalty
        for split in settings.splits:
            here = np.flatnonzero(known & (cases["split"] == split).to_numpy())
            why = f"{settings.discovery}: {reason}" if reason else ""
            if not why and (few_here := _why_not_ordered(scale.code[here], patients[here])):
                why = f"{split}: {few_here}"
            if not why and np.isnan(scores[here]).any():
                why = f"{split}: {ONE_SIDED}"
            value = low = high = np.nan
            if not why:
                drawn = st.PatientDraws(patients[here], settings.bootstrap_draws, settings.seed)
                measure = partial(concordance, scores[here], scale.code[here])
                low, high = st.interval(drawn.of(measure))
                value = measure()
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


@dataclass(frozen=True)
class Fitted:
    """A fitted probe: scores [n] of all images, its penalty, the number of features (0: all)."""

    scores: np.ndarray
    penalty: float
    used: int


# A fit gets the positions [m] of the images to fit on, the labels [m, t] of t targets, and k.
Fit = Callable[[np.ndarray, np.ndarray, int], list[Fitted]]


class Probe:
    """The probes of one set of features, `values` [n, f]."""

    def __init__(
        self,
        settings: ProbesSettings,
        cases: pd.DataFrame,
        features: str,
        values: Matrix | np.ndarray,
    ) -> None:
        self.features = features
        self._settings = settings
        self._values = DenseRows(row_blocks(values)) if isinstance(values, np.ndarray) else values
        self._patients = cases["patient_id"].to_numpy()
        self._seen = np.empty(0, np.int64)
        self._standard: Standardised
        self._components: DenseRows | Standardised | None = None
        self._truths = np.empty((0, 0), bool)
        self._best: np.ndarray

    def kinds(self) -> list[tuple[str, int, Fit]]:
        """Return (name, k, fit) of each probe."""
        if self.features == "embedding":
            k = min(self._settings.components, self._values.shape[1])
            return [("l2", 0, self._ridge), ("pca", k, self._principal)]
        l1: list[tuple[str, int, Fit]] = [("l1", 0, self._lasso)]
        sparse: list[tuple[str, int, Fit]] = [("sparse", k, self._few) for k in self._settings.k]
        return [
            ("l2", 0, self._ridge),
            *(l1 if self._settings.l1_penalties else []),
            *sparse,
        ]

    def scores(self, fit: Fit, found: np.ndarray, truths: np.ndarray, k: int) -> list[Fitted]:
        """Fit t targets, with labels `truths` [m, t], on the images `found` [m].

        If the discovery split is scored, its images get the scores of `nested`.
        """
        if not truths.shape[1]:
            return []
        fitted = fit(found, truths, k)
        if self._settings.discovery in self._settings.splits:
            own = self.nested(fit, found, truths, k)
            for target, one in enumerate(fitted):
                one.scores[found] = own[:, target]
        return fitted

    def ordered(self, found: np.ndarray, levels: np.ndarray, k: int) -> list[Fitted]:
        """Fit proportional odds to one target. The penalty is chosen by concordance over folds."""
        self._prepare(found)
        names, code = np.unique(levels[:, 0], return_inverse=True)
        features, penalties = self._standard, self._settings.penalties
        patients = self._patients[found]
        folds = [
            (train, held)
            for train, held in patient_folds(patients, self._settings.folds)
            if len(np.unique(code[train])) == len(names) and len(np.unique(code[held])) > 1
        ]
        totals = np.zeros(len(penalties))
        if folds:
            used = np.zeros((len(found), len(folds)), bool)
            for column, (train, _) in enumerate(folds):
                used[train, column] = True
            used = np.repeat(used, len(penalties), axis=1)
            strengths = np.tile(penalties, len(folds))
            directions = proportional_odds(features, found, code, used, strengths)
            scores = features.times(directions)[found]
            for column in range(scores.shape[1]):
                fold, place = divmod(column, len(penalties))
                held = folds[fold][1]
                totals[place] += concordance(scores[held, column], code[held])
        best = penalties[int(totals.argmax())]
        everything = np.ones((len(found), 1), bool)
        direction = proportional_odds(features, found, code, everything, np.array([best]))
        return [Fitted(features.times(direction)[:, 0], best, k)]

    def nested(self, fit: Fit, found: np.ndarray, truths: np.ndarray, k: int) -> np.ndarray:
        """Return scores [m, t] by cross-validation over patients.

        Each image is scored by a fit on other patients. All scores of a target are NaN if a fit
        would have only one patient or one class.
        """
        scores = np.full(truths.shape, np.nan)
        lost = np.zeros(truths.shape[1], bool)
        for train, held in patient_folds(self._patients[found], self._settings.outer_folds):
            one_patient = len(np.unique(self._patients[found[train]])) < 2
            lost |= one_patient | (truths[train] == truths[train][:1]).all(axis=0)
            some = np.flatnonzero(~lost)
            if len(some):
                for target, one in zip(
                    some, fit(found[train], truths[train][:, some], k), strict=True
                ):
                    scores[held, target] = one.scores[found[held]]
        scores[:, lost] = np.nan
        return scores

    def why_not_fitted(self, found: np.ndarray) -> str:
        """Return why no probe can be fitted on the images `found`, or ``""``."""
        if len(np.unique(self._patients[found])) < 2:
            return "only one patient is labelled, and the choice of a penalty needs two"
        self._prepare(found)
        if not self._standard.shape[1]:
            return f"every feature of the {self.features} is the same on every image"
        return ""

    def _prepare(self, found: np.ndarray) -> None:
        """Standardise the features on the images `found`.

        Nothing is computed if `found` is the same as in the last call.
        """
        if np.array_equal(found, self._seen):
            return
        self._seen, self._standard = found, Standardised.over(self._values, found)
        self._components, self._truths = None, np.empty((0, 0), bool)

    def _ridge(self, found: np.ndarray, truths: np.ndarray, k: int) -> list[Fitted]:
        self._prepare(found)
        return self._chosen(self._standard, found, truths, k, self._settings.penalties)

    def _lasso(self, found: np.ndarray, truths: np.ndarray, k: int) -> list[Fitted]:
        self._prepare(found)
        return self._chosen(self._standard, found, truths, None, self._settings.l1_penalties)

    def _principal(self, found: np.ndarray, truths: np.ndarray, k: int) -> list[Fitted]:
        self._prepare(found)
        if self._components is None:
            directions = self._standard.principal(found, k)
            self._components = DenseRows(row_blocks(self._standard.times(directions)))
        return self._chosen(self._components, found, truths, k, self._settings.penalties)

    def _few(self, found: np.ndarray, truths: np.ndarray, k: int) -> list[Fitted]:
        self._prepare(found)
        best = self._best_features(found, truths)[:k]
        used, place = np.unique(best, return_inverse=True)
        columns = self._standard.columns(used)
        result = []
        for target, truth in enumerate(truths.T):
            chosen = np.zeros((len(used), len(best)))
            chosen[place.reshape(best.shape)[:, target], np.arange(len(best))] = 1.0
            features = columns.times(chosen)
            model = ridge(_SPARSE_PENALTY).fit(features[found], truth)
            result.append(Fitted(model.decision_function(features), _SPARSE_PENALTY, k))
        return result

    def _best_features(self, found: np.ndarray, truths: np.ndarray) -> np.ndarray:
        """Return [most k, t]: the features of largest mean difference, largest first."""
        if not np.array_equal(truths, self._truths):
            difference = np.abs(self._standard.mean_differences(found, truths))
            order = np.argsort(-np.nan_to_num(difference), axis=0, kind="stable")
            self._truths, self._best = truths, order[: max(self._settings.k)]
        return self._best

    def _chosen(
        self,
        features: DenseRows | Standardised,
        found: np.ndarray,
        truths: np.ndarray,
        k: int | None,
        penalties: Sequence[float],
    ) -> list[Fitted]:
        """Fit with a chosen penalty. Without k it is an L1 penalty, which chooses the features."""
        patients, folds = self._patients[found], self._settings.folds
        chosen = best_fits(features, found, truths, patients, penalties, folds, l1=k is None)
        weights = np.stack([one.weights for one in chosen], axis=1)
        scores = features.times(weights) + np.array([one.intercept for one in chosen])
        used = (weights != 0).sum(axis=0) if k is None else [k] * len(chosen)
        return [
            Fitted(scores[:, t].copy(), one.penalty, int(used[t])) for t, one in enumerate(chosen)
        ]


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
    drawn = st.PatientDraws(patients, settings.bootstrap_draws, settings.seed)
    draws = drawn.of(partial(st.auroc, scores[rows], truth))
    low, high = st.interval(draws)
    value = st.auroc(scores[rows], truth)
    return {"auroc": value, "auroc_low": low, "auroc_high": high, "reason": ""}, draws
