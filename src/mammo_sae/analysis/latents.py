"""Step: rank an SAE's latents for every concept, and test their associations.

Rankings (1 = first), all on the discovery split:

- ``class_mean``: mean over the concept's positive images of the image-mean code, not centred. This
  is the ranking of Mammo-SAE (arXiv 2507.15227, section 3).
- ``mean_difference``: this mean minus that of the negative images. The files published with
  Mammo-SAE rank latents by centred means, which gives the same order.
- ``class_contrast``: the absolute value of that difference.
- ``effect``: standardised mean difference of the image's score.
- ``auroc``: AUROC of the image's score.
- ``sparse_probe``: absolute weight of the latent in an L1 logistic regression on all standardised
  scores. Latents with weight 0 are not ranked.

The confirmation split has other patients. It gives each latent's AUROC with a patient-bootstrap
interval, a patient-level permutation p, and the Benjamini-Hochberg q over the concept's latents.

A patient has several images. If the setting `unit` is breast or patient, scores and mean codes are
aggregated over the unit's images before ranks and tests are computed. A unit is positive if one of
its images is positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis import exchange
from mammo_sae.cohorts.labels import labelling
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import LatentSettings

RANKINGS = ("class_mean", "mean_difference", "class_contrast", "effect", "auroc", "sparse_probe")


def run(
    settings: LatentSettings,
    *,
    identity: case.Identity,
    images: Path,
    codes: Path,
    concepts: Sequence[str],
    output: Path,
) -> list[Path]:
    """Rank latents by concept: class means, AUROC with interval, permutation p.

    Parameters
    ----------
    images
        Image table.
    codes
        Manifest of the SAE's codes.
    concepts
        Columns of the image table that hold labels.
    output
        Table to write (.parquet): a row per latent and concept.
    """
    reader = CodesReader(codes)
    cases = case.read_cases(images, reader.image_ids)
    scores = reader.pooled(settings.score)
    means = scores if settings.score == "mean" else reader.pooled("mean")
    discovered = (cases["split"] == settings.discovery).to_numpy()
    firing = reader.pooled("active")[discovered].mean(axis=0, dtype=np.float64)
    if settings.unit != "image":
        member, cases = case.units(cases, settings.unit, concepts)
        means = case.pool(means, member, "mean")
        scores = case.pool(scores, member, settings.aggregate)
    parts = [concept_table(settings, cases, scores, means, concept) for concept in concepts]
    table = pd.concat(parts, ignore_index=True)
    table.insert(2, "firing_rate", np.tile(firing, len(concepts)))
    table.insert(3, "score", settings.score)
    table.insert(4, "unit", settings.unit)
    table.insert(5, "labels", labelling(cases, concepts))
    write_table(identity.label(table), output)
    return [output]


def concept_table(
    settings: LatentSettings,
    cases: pd.DataFrame,
    scores: np.ndarray,
    means: np.ndarray,
    concept: str,
) -> pd.DataFrame:
    """Return one concept's rows, one per latent.

    Parameters
    ----------
    cases
        Image table in the order of the scores.
    scores, means : [n, h]
        Scores and mean codes of every image for every latent.
    """
    latents = scores.shape[1]
    table = pd.DataFrame({"latent": np.arange(latents), "concept": concept})
    table["reason"] = ""
    found = case.labelled(cases, concept, settings.discovery)
    truth = case.labels(cases, concept, found)
    for name, rows in (("positive", found[truth]), ("negative", found[~truth])):
        table[f"mean_{name}"] = (
            means[rows].mean(axis=0, dtype=np.float64) if len(rows) else np.full(latents, np.nan)
        )
    table["mean_difference"] = table["mean_positive"] - table["mean_negative"]
    constant = st.is_constant(scores[found])
    reason = st.why_not_estimable(truth, cases["patient_id"].to_numpy()[found])
    estimated = np.zeros(latents, bool) if reason else ~constant
    table["effect"] = _spread(
        st.standardised_mean_difference(scores[np.ix_(found, estimated)], truth), estimated
    )
    table["discovery_auroc"] = _spread(st.auroc(scores[np.ix_(found, estimated)], truth), estimated)
    weights = _sparse_weights(settings, scores[np.ix_(found, estimated)], truth)
    table["sparse_weight"] = _spread(weights, estimated)
    _explain(table, estimated, constant, reason, settings.discovery)
    size = table["sparse_weight"].abs()
    by = (
        table["mean_positive"],
        table["mean_difference"],
        table["mean_difference"].abs(),
        table["effect"],
        table["discovery_auroc"],
        size.where(size > 0),
    )
    for ranking, values in zip(RANKINGS, by, strict=True):
        order = values.where(~constant)
        table[f"rank_{ranking}"] = order.rank(ascending=False, method="first").astype("Int32")
    confirm(settings, cases, scores, concept, table)
    return table


def confirm(
    settings: LatentSettings,
    cases: pd.DataFrame,
    scores: np.ndarray,
    concept: str,
    table: pd.DataFrame,
) -> None:
    """Add to `table` the AUROC, interval, p and q of each latent on the confirmation split.

    `table` has a row per latent of `scores` [n, m], and its column ``reason`` gets the reason if
    they can't be estimated.
    """
    rows = case.labelled(cases, concept, settings.confirmation)
    truth = case.labels(cases, concept, rows)
    patients = cases["patient_id"].to_numpy()[rows]
    constant = st.is_constant(scores[rows])
    reason = st.why_not_estimable(truth, patients)
    estimated = np.zeros(scores.shape[1], bool) if reason else ~constant
    tested = scores[np.ix_(rows, estimated)]
    low, high = st.patient_bootstrap(
        st.auroc, tested, truth, patients, settings.bootstrap_draws, settings.seed
    )
    p = exchange.patient_permutation_p(
        tested,
        truth,
        patients,
        draws=settings.permutation_draws,
        seed=settings.seed,
        breasts=cases["side"].astype(str).to_numpy()[rows],
    )
    for name, values in (
        ("auroc", st.auroc(tested, truth)),
        ("auroc_low", low),
        ("auroc_high", high),
        ("p", p),
    ):
        table[name] = _spread(values, estimated)
    table["q"] = st.benjamini_hochberg(table["p"])
    # Without an image no score is the same on all: the reason is the number of patients.
    _explain(table, estimated, constant & (len(rows) > 0), reason, settings.confirmation)


def _sparse_weights(settings: LatentSettings, scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the weights [m] of an L1 logistic regression on standardised scores [n, m]."""
    if not scores.shape[1]:
        return np.empty(0)
    model = LogisticRegression(
        C=settings.sparse_penalty,
        l1_ratio=1.0,
        solver="liblinear",
        class_weight="balanced",
        max_iter=200,
        random_state=settings.seed,
    )
    return model.fit(StandardScaler().fit_transform(scores), truth).coef_[0]


def _spread(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    result = np.full(len(where), np.nan)
    result[where] = values
    return result


def _explain(
    table: pd.DataFrame, estimated: np.ndarray, constant: np.ndarray, reason: str, split: str
) -> None:
    text = np.where(constant, f"{split}: the same score on every image", f"{split}: {reason}")
    fresh = ~estimated & (table["reason"] == "").to_numpy()
    table.loc[fresh, "reason"] = text[fresh]
