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
  scores (`mammo_sae.regression.penalised`). Latents with weight 0 are not ranked.

The confirmation split has other patients. It gives each latent's AUROC with a patient-bootstrap
interval, a patient-level permutation p, and the Benjamini-Hochberg q over the concept's latents.

A patient has several images. If the setting `unit` is breast or patient, scores and mean codes are
aggregated over the unit's images before ranks and tests are computed. A unit is positive if one of
its images is positive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis import exchange
from mammo_sae.blockwise import blockwise, threads
from mammo_sae.cohorts.labels import labelling
from mammo_sae.regression.features import SparseRows, Standardised
from mammo_sae.regression.penalised import balanced, sparse_logistic
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
    discovered = np.flatnonzero((cases["split"] == settings.discovery).to_numpy())
    if settings.unit == "image":
        pooled = _Pooled(reader, settings.score, "", np.empty(0, np.int64), discovered)
    else:
        member, cases = case.units(cases, settings.unit, concepts)
        pooled = _Pooled(reader, settings.score, settings.aggregate, member, discovered)
    labels = [_Labels.of(settings, cases, concept) for concept in concepts]
    blocks = reader.latent_blocks(len(reader) * threads())
    found: list[list[pd.DataFrame]] = [[] for _ in concepts]
    firing = []

    def columns() -> Iterator[sparse.csc_array]:
        for scores, rates, tables in blockwise(partial(_block, pooled, labels), blocks):
            firing.append(rates)
            for parts, table in zip(found, tables, strict=True):
                parts.append(table)
            yield scores

    scores = SparseRows.of_columns(len(cases), columns())
    parts = [
        concept_table(settings, pooled, scores, one, blocks, pd.concat(tables, ignore_index=True))
        for one, tables in zip(labels, found, strict=True)
    ]
    table = pd.concat(parts, ignore_index=True)
    table.insert(2, "firing_rate", np.tile(np.concatenate(firing), len(concepts)))
    table.insert(3, "score", settings.score)
    table.insert(4, "unit", settings.unit)
    table.insert(5, "labels", labelling(cases, concepts))
    write_table(identity.label(table), output)
    return [output]


@dataclass(frozen=True)
class _Pooled:
    """Scores, mean codes and firing rates of some latents, for every unit.

    Attributes
    ----------
    reader, score
        The codes, and the name of the pooled codes that are the scores.
    aggregate, member
        How scores of the images of a unit are combined, and each image's unit [n]; empty: the units
        are images.
    discovered
        The images over which firing rates are taken.
    """

    reader: CodesReader
    score: str
    aggregate: str
    member: np.ndarray
    discovered: np.ndarray

    def scores(self, latents: np.ndarray) -> np.ndarray:
        """Return [u, b]."""
        values = self.reader.pooled(self.score, latents=latents)
        return case.pool(values, self.member, self.aggregate) if self.aggregate else values

    def means(self, latents: np.ndarray) -> np.ndarray:
        """Return [u, b]."""
        values = self.reader.pooled("mean", latents=latents)
        return case.pool(values, self.member, "mean") if self.aggregate else values

    def firing(self, latents: np.ndarray) -> np.ndarray:
        """Return [b]."""
        values = self.reader.pooled("active", latents=latents)
        return values[self.discovered].mean(axis=0, dtype=np.float64)


@dataclass(frozen=True)
class _Labels:
    """One concept's labels in both splits, and why a split can't be estimated."""

    concept: str
    found: np.ndarray
    truth: np.ndarray
    why_not_found: str
    tested: np.ndarray
    tested_truth: np.ndarray
    patients: np.ndarray
    sides: np.ndarray
    drawn: st.PatientDraws
    why_not_tested: str

    @classmethod
    def of(cls, settings: LatentSettings, cases: pd.DataFrame, concept: str) -> _Labels:
        patients = cases["patient_id"].to_numpy()
        found = case.labelled(cases, concept, settings.discovery)
        truth = case.labels(cases, concept, found)
        tested = case.labelled(cases, concept, settings.confirmation)
        tested_truth = case.labels(cases, concept, tested)
        return cls(
            concept=concept,
            found=found,
            truth=truth,
            why_not_found=st.why_not_estimable(truth, patients[found]),
            tested=tested,
            tested_truth=tested_truth,
            patients=patients[tested],
            sides=cases["side"].astype(str).to_numpy()[tested],
            drawn=st.PatientDraws(patients[tested], settings.bootstrap_draws, settings.seed),
            why_not_tested=st.why_not_estimable(tested_truth, patients[tested]),
        )


def _block(
    pooled: _Pooled, labels: Sequence[_Labels], latents: np.ndarray
) -> tuple[sparse.csc_array, np.ndarray, list[pd.DataFrame]]:
    """Return the scores [u, b], firing rates [b] and statistics per concept of a block."""
    firing, means = pooled.firing(latents), pooled.means(latents)
    tables = [_class_means(one, means, latents) for one in labels]
    del means
    scores = pooled.scores(latents)
    for one, table in zip(labels, tables, strict=True):
        _discover(one, scores[one.found], table)
        _confirm(one, scores[one.tested], table)
    return sparse.csc_array(scores), firing, tables


def _class_means(labels: _Labels, means: np.ndarray, latents: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame({"latent": latents, "concept": labels.concept, "reason": ""})
    truth = labels.truth
    for name, rows in (("positive", labels.found[truth]), ("negative", labels.found[~truth])):
        table[f"mean_{name}"] = means[rows].mean(axis=0, dtype=np.float64) if len(rows) else np.nan
    table["mean_difference"] = table["mean_positive"] - table["mean_negative"]
    return table


def _discover(labels: _Labels, scores: np.ndarray, table: pd.DataFrame) -> None:
    """Add the statistics of the discovery split, from its scores [n, b]."""
    table["found_constant"] = st.is_constant(scores)
    estimated = ~table["found_constant"].to_numpy() & (not labels.why_not_found)
    some = scores[:, estimated]
    table["effect"] = _spread(st.standardised_mean_difference(some, labels.truth), estimated)
    table["discovery_auroc"] = _spread(st.auroc(some, labels.truth), estimated)


def _confirm(labels: _Labels, scores: np.ndarray, table: pd.DataFrame) -> None:
    """Add the statistics of the confirmation split, from its scores [n, b]."""
    table["tested_constant"] = st.is_constant(scores)
    estimated = ~table["tested_constant"].to_numpy() & (not labels.why_not_tested)
    some = scores[:, estimated]
    low, high = st.interval(labels.drawn.of(partial(st.auroc, some, labels.tested_truth)))
    value = st.auroc(some, labels.tested_truth)
    for name, values in (("auroc", value), ("auroc_low", low), ("auroc_high", high)):
        table[name] = _spread(values, estimated)


def concept_table(
    settings: LatentSettings,
    pooled: _Pooled,
    scores: SparseRows,
    labels: _Labels,
    blocks: Sequence[np.ndarray],
    table: pd.DataFrame,
) -> pd.DataFrame:
    """Return one concept's rows, one per latent.

    Parameters
    ----------
    pooled, scores
        Scores of every unit for every latent, by blocks and as sparse columns.
    labels
        Labels of the concept.
    blocks
        The latents in blocks.
    table
        The statistics that were computed by block, a row per latent.
    """
    constant = table.pop("found_constant").to_numpy()
    untested = table.pop("tested_constant").to_numpy()
    estimated = ~constant & (not labels.why_not_found)
    weights = np.full(len(table), np.nan)
    if estimated.any():
        weights[estimated] = _sparse_weights(settings, scores, labels)[estimated]
    _explain(table, estimated, constant, labels.why_not_found, settings.discovery)
    size = np.abs(weights)
    by = (
        table["mean_positive"],
        table["mean_difference"],
        table["mean_difference"].abs(),
        table["effect"],
        table["discovery_auroc"],
        pd.Series(np.where(size > 0, size, np.nan)),
    )
    table.insert(table.columns.get_loc("discovery_auroc") + 1, "sparse_weight", weights)
    ranks = {
        f"rank_{ranking}": values.where(~constant).rank(ascending=False, method="first")
        for ranking, values in zip(RANKINGS, by, strict=True)
    }
    place = table.columns.get_loc("auroc")
    for offset, (name, values) in enumerate(ranks.items()):
        table.insert(place + offset, name, values.astype("Int32"))
    table["tested_constant"] = untested
    _test(settings, labels, lambda latents: pooled.scores(latents)[labels.tested], blocks, table)
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
    labels = _Labels.of(settings, cases, concept)
    tested = scores[labels.tested]
    _confirm(labels, tested, table)
    everything = [np.arange(scores.shape[1])]
    _test(settings, labels, lambda some: tested[:, some], everything, table)


def _test(
    settings: LatentSettings,
    labels: _Labels,
    read: Callable[[np.ndarray], np.ndarray],
    blocks: Sequence[np.ndarray],
    table: pd.DataFrame,
) -> None:
    """Add p, q and the reason. `read` returns the confirmation split's scores of some rows."""
    constant = table.pop("tested_constant").to_numpy()
    estimated = ~constant & (not labels.why_not_tested)
    p = exchange.streamed_permutation_p(
        read,
        [block[estimated[block]] for block in blocks if estimated[block].any()],
        labels.tested_truth,
        labels.patients,
        draws=settings.permutation_draws,
        seed=settings.seed,
        breasts=labels.sides,
    )
    table["p"] = _spread(p, estimated)
    table["q"] = st.benjamini_hochberg(table["p"])
    # Without an image no score is the same on all: the reason is the number of patients.
    some = constant & (len(labels.tested) > 0)
    _explain(table, estimated, some, labels.why_not_tested, settings.confirmation)


def _sparse_weights(settings: LatentSettings, scores: SparseRows, labels: _Labels) -> np.ndarray:
    """Return the weights [h] of an L1 logistic regression on standardised scores."""
    standard = Standardised.over(scores, labels.found)
    truth = labels.truth[:, None]
    weights, _ = sparse_logistic(
        standard,
        labels.found,
        truth,
        balanced(labels.truth)[:, None],
        np.array([settings.sparse_penalty]),
    )
    result = np.zeros(scores.shape[1])
    result[standard.kept] = weights[:, 0]
    return result


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
