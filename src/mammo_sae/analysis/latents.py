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

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis import exchange
from mammo_sae.analysis.mean_codes import MeanCodes
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
    # The share of cells in which each latent is active.
    firing = reader.pooled_mean("active", [reader.image_ids[image] for image in discovered])
    member = None
    if settings.unit != "image":
        member, cases = case.units(cases, settings.unit, concepts)
    labels = [_Labels.of(settings, cases, concept) for concept in concepts]
    means = _class_means(labels, unit_rows(reader, "mean", member, "mean"), reader.latents)
    scores = SparseRows(unit_rows(reader, settings.score, member, settings.aggregate))
    columns = MeanCodes.write((block for _, block in scores.blocks()), len(cases), output.parent)
    blocks = reader.latent_blocks(len(cases) * threads())
    found: list[list[pd.DataFrame]] = [[] for _ in concepts]
    for tables in blockwise(partial(_block, columns, labels, means), blocks):
        for parts, table in zip(found, tables, strict=True):
            parts.append(table)
    parts = [
        concept_table(settings, columns, scores, one, blocks, pd.concat(tables, ignore_index=True))
        for one, tables in zip(labels, found, strict=True)
    ]
    table = pd.concat(parts, ignore_index=True)
    table.insert(2, "firing_rate", np.tile(firing, len(concepts)))
    table.insert(3, "score", settings.score)
    table.insert(4, "unit", settings.unit)
    table.insert(5, "labels", labelling(cases, concepts))
    write_table(identity.label(table), output)
    return [output]


def unit_rows(
    reader: CodesReader, name: str, member: np.ndarray | None, how: str
) -> Iterator[np.ndarray]:
    """Yield the pooled codes `name` [b, h] of some units at a time, in order.

    `member` [n] is each image's unit, and `how` says how the codes of a unit's images are combined
    (`cases.pool`). Without `member`, the units are images.
    """
    if member is None:
        for ids in reader.image_blocks():
            yield reader.pooled(name, ids)
        return
    order = np.argsort(member, kind="stable")
    ids = [reader.image_ids[image] for image in order]
    most = max(map(len, reader.image_blocks()))
    for some in whole_units(member[order], most):
        yield case.pool(reader.pooled(name, ids[some]), member[order][some], how)


def whole_units(member: np.ndarray, most: int) -> Iterator[slice]:
    """Yield slices of `member` [n], sorted, which hold whole units and at most `most` images.

    A unit with more images is a slice of its own.
    """
    ends = np.append(np.flatnonzero(np.diff(member)) + 1, len(member))
    start = 0
    while start < len(member):
        fits = ends[(ends > start) & (ends <= start + most)]
        end = int(fits[-1] if len(fits) else ends[ends > start][0])
        yield slice(start, end)
        start = end


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


def _class_means(
    labels: Sequence[_Labels], blocks: Iterable[np.ndarray], latents: int
) -> np.ndarray:
    """Return [concepts, 2, h]: the mean codes of positive and of negative units.

    `blocks` [b, h] are the mean codes of all units, in order. A class without a unit gives NaN.
    """
    classes = [rows for one in labels for rows in (one.found[one.truth], one.found[~one.truth])]
    total, start = np.zeros((len(classes), latents)), 0
    for block in blocks:
        for place, rows in enumerate(classes):
            here = rows[(rows >= start) & (rows < start + len(block))] - start
            total[place] += block[here].sum(axis=0, dtype=np.float64)
        start += len(block)
    counts = np.array([len(rows) for rows in classes])[:, None]
    means = np.divide(total, counts, out=np.full(total.shape, np.nan), where=counts > 0)
    return means.reshape(len(labels), 2, latents)


def _block(
    columns: MeanCodes, labels: Sequence[_Labels], means: np.ndarray, latents: np.ndarray
) -> list[pd.DataFrame]:
    """Return the statistics of a block of latents, a table per concept.

    `columns` has the scores of all units, and `means` is that of `_class_means`.
    """
    scores, tables = columns.of(latents).T, []
    for one, (positive, negative) in zip(labels, means[:, :, latents], strict=True):
        table = pd.DataFrame({"latent": latents, "concept": one.concept, "reason": ""})
        table["mean_positive"], table["mean_negative"] = positive, negative
        table["mean_difference"] = positive - negative
        _discover(one, scores[one.found], table)
        _confirm(one, scores[one.tested], table)
        tables.append(table)
    return tables


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
    columns: MeanCodes,
    scores: SparseRows,
    labels: _Labels,
    blocks: Sequence[np.ndarray],
    table: pd.DataFrame,
) -> pd.DataFrame:
    """Return one concept's rows, one per latent.

    Parameters
    ----------
    columns, scores
        Scores of every unit for every latent, latent by latent and unit by unit.
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
    _test(settings, labels, lambda some: columns.of(some, labels.tested).T, blocks, table)
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
