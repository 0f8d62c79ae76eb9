"""Step: count the latents that a concept is split over, and the images in which others absorb it.

Feature splitting and absorption are defined by Chanin et al. (2024, arXiv 2409.14507) for the first
letters of words. This step measures them for the concepts of images at the head layer, with the
limits of SAEBench (Karvonen et al. 2025, arXiv 2503.09532). One image takes the place of one token.
Its embedding x is the mean over its cells, and its codes z_t are mean codes.

*Splitting.* `mammo_sae.analysis.main_latents` finds the main latents on the discovery split.

*Absorption.* Let p be the unit direction of an L2 probe for the concept on x, d_t the atoms, and m
and m_t the means of x and z_t over the negative images of the discovery split. The evidence for the
concept in an image is

    (x - m).p = sum_t (z_t - m_t) (d_t.p) + (the SAE's error)

and the term of a latent is its part. On the confirmation split, a positive image that the probe
recognises is *absorbed* if no main latent fires in it and another latent, whose atom has a cosine
of at least `LEAST_COSINE` with p, carries at least the share `LEAST_SHARE` of the evidence. The
absorption rate is the share of absorbed images among the positive images that the probe recognises.

The absorption fraction of SAEBench also counts images in which main latents fire weakly. In one
image it is the part of at most `MOST_ABSORBING` other latents, divided by that part plus the part
of the main latents. The other latents count for no more than the evidence that the main latents
leave. The fraction is 0 if they carry less than the share `LEAST_SHARE` of the evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis.main_latents import calls, cross_validated_f1, main_count, ordered
from mammo_sae.encoders.plans.plan import HEAD, POOLED
from mammo_sae.encoders.pooled import mean_embeddings
from mammo_sae.errors import InputError, counted
from mammo_sae.regression.features import Matrix, Standardised
from mammo_sae.regression.penalised import best_fits
from mammo_sae.sae.files import read_atoms
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import AbsorptionSettings

LEAST_COSINE = 0.1
LEAST_SHARE = 0.4
MOST_ABSORBING = 3
_CANDIDATES = 100  # latents of largest effect, among which the main latents are sought
_NUMBERS = ("first_f1", "main_f1", "absorption", "absorption_fraction")
_COUNTS = ("main_latents", "recognised", "absorbed")


def run(
    settings: AbsorptionSettings,
    *,
    identity: case.Identity,
    images: Path,
    embeddings: Sequence[Path],
    codes: Path,
    sae: Path,
    latents: Path,
    concepts: Sequence[str],
    output: Path,
) -> list[Path]:
    """Count the latents that each concept is split over, and the images in which others absorb it.

    Parameters
    ----------
    images
        Image table.
    embeddings
        Manifests of the embeddings of the layer `pooled`, all shards.
    codes
        Manifest of the SAE's codes.
    sae
        Description (`sae.json`) of the SAE.
    latents
        Table of the same SAE, written by the step `latents`.
    concepts
        Columns of the image table.
    output
        Table to write (.parquet): a row per concept.

    Raises
    ------
    InputError
        If the codes are not of the head layer.
    """
    reader = CodesReader(codes)
    if reader.grid.layer != HEAD:
        raise InputError(
            f"{codes} holds codes of layer {reader.grid.layer}; "
            f"absorption compares pooled embeddings with codes of layer {HEAD}"
        )
    ids = reader.image_ids
    data = _Data(
        reader=reader,
        cases=case.read_cases(images, ids),
        ids=np.asarray(ids),
        embedding=mean_embeddings(embeddings, POOLED, ids),
        atoms=read_atoms(sae, np.ones(reader.latents, bool)),
        ranked=read_table(latents),
    )
    rows = [{"concept": concept, **_row(settings, data, concept)} for concept in concepts]
    table = pd.DataFrame(rows).astype(dict.fromkeys(_COUNTS, "Int32"))
    write_table(identity.label(table), output)
    return [output]


@dataclass(frozen=True)
class _Data:
    """What the rows of all concepts are computed from, for n images, h latents and d channels.

    Attributes
    ----------
    cases, ids, embedding : [n], [n], [n, d]
        Rows of the image table, ids and pooled embeddings, in the order of the codes.
    atoms : [h, d]
    ranked
        The table `latents`.
    """

    reader: CodesReader
    cases: pd.DataFrame
    ids: np.ndarray
    embedding: Matrix
    atoms: np.ndarray
    ranked: pd.DataFrame

    def codes(self, rows: np.ndarray, latents: np.ndarray) -> np.ndarray:
        """Return the mean codes [len(rows), len(latents)]."""
        return self.reader.pooled("mean", self.ids[rows].tolist(), latents)

    def blocks(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return `rows` in blocks for which the codes of all latents fit into memory."""
        sizes = [len(block) for block in self.reader.image_blocks(self.ids[rows].tolist())]
        return np.split(rows, np.cumsum(sizes)[:-1])


def _row(settings: AbsorptionSettings, data: _Data, concept: str) -> dict[str, object]:
    """Return one concept's row."""
    patients = data.cases["patient_id"].to_numpy()
    row: dict[str, object] = {"main_latents": pd.NA, "latents": ""}
    row |= {f"{name}{end}": np.nan for name in _NUMBERS for end in ("", "_low", "_high")}
    row |= {"recognised": pd.NA, "absorbed": pd.NA, "absorbers": "", "reason": ""}
    labelled = {}
    for split in (settings.discovery, settings.confirmation):
        rows = case.labelled_images(data.cases, concept, split)
        labelled[split] = rows, case.labels(data.cases, concept, rows)
        why = st.why_not_estimable(labelled[split][1], patients[rows])
        if why:
            return row | {"reason": f"{split}: {why}"}
    found, known = labelled[settings.discovery]
    tested, truly = labelled[settings.confirmation]
    candidates = _candidates(data.ranked, concept)
    codes = data.codes(found, candidates)
    order = ordered(codes, known)
    if not len(order):
        return row | {"reason": f"{settings.discovery}: no latent predicts {concept}"}
    codes, latents = codes[:, order], candidates[order]
    main = latents[: main_count(cross_validated_f1(codes, known, patients[found], settings.folds))]
    row |= {"main_latents": len(main), "latents": ", ".join(map(str, main))}
    fresh = data.codes(tested, main)
    draws = st.PatientDraws(patients[tested], settings.bootstrap_draws, settings.seed)
    for name, k in (("first_f1", 1), ("main_f1", len(main))):
        called = calls(codes[:, :k], known, fresh[:, :k])
        row[name] = _f1(called, truly)
        row[f"{name}_low"], row[f"{name}_high"] = st.interval(draws.of(partial(_f1, called, truly)))
    direction, recognised = _probe(settings, data, found, known, tested)
    images = tested[recognised & truly]
    row["recognised"] = len(images)
    count = len(np.unique(patients[images]))
    if count < st.MIN_POSITIVES:
        why = f"the probe recognises positive images of {counted(count, 'patient')}"
        reason = f"{settings.confirmation}: {why}, fewer than {st.MIN_POSITIVES}"
        return row | {"reason": reason}
    absorber, fraction = _absorbers(data, direction, main, found[~known], images)
    draws = st.PatientDraws(patients[images], settings.bootstrap_draws, settings.seed)
    for name, values in (("absorption", absorber >= 0), ("absorption_fraction", fraction)):
        row[name] = float(values.mean())
        row[f"{name}_low"], row[f"{name}_high"] = st.interval(draws.of(partial(_share, values)))
    row["absorbed"] = int((absorber >= 0).sum())
    row["absorbers"] = _most_frequent(absorber[absorber >= 0])
    return row


def _f1(called: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> Any:
    return st.precision_recall_f1(called, truth, weights)[2]


def _share(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return values.astype(np.float64) @ weights / weights.sum(axis=0)


def _candidates(ranked: pd.DataFrame, concept: str) -> np.ndarray:
    """Return the latents of largest effect on the discovery split that the concept raises."""
    raised = ranked[ranked["effect"] > 0]
    return case.top_latents(raised, concept, ("effect",), _CANDIDATES)


def _most_frequent(absorbers: np.ndarray) -> str:
    """Return the latents that absorb the concept in the most images, each with their number."""
    names, often = np.unique(absorbers, return_counts=True)
    first = np.argsort(-often, kind="stable")[:MOST_ABSORBING]
    return ", ".join(f"{names[i]} ({often[i]})" for i in first)


def _probe(
    settings: AbsorptionSettings,
    data: _Data,
    found: np.ndarray,
    truth: np.ndarray,
    tested: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit an L2 logistic regression on the embeddings of the images `found`.

    All channels are divided by one number, so that the weights are a direction of the embedding
    space. Both classes have the same total weight in the fit.

    Returns
    -------
    direction : [d]
        The probe's weights, of norm 1.
    recognised : bool
        Whether the probe calls each image of `tested` positive.
    """
    mean, spread = data.embedding.moments(found)
    scale = float(np.sqrt(np.square(spread).mean())) or 1.0
    values = Standardised(data.embedding, np.arange(len(mean)), mean, np.full(len(mean), scale))
    patients = data.cases["patient_id"].to_numpy()[found]
    penalties, folds = settings.penalties, settings.folds
    [model] = best_fits(values, found, truth[:, None], patients, penalties, folds, l1=False)
    scores = values.times(model.weights[:, None])[tested, 0] + model.intercept
    return model.weights / max(float(np.linalg.norm(model.weights)), 1e-12), scores > 0


def _absorbers(
    data: _Data,
    direction: np.ndarray,
    main: np.ndarray,
    negative: np.ndarray,
    images: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the latent that absorbs the concept in each of `images`, -1: none, and the fraction.

    The evidence is relative to the mean of the images `negative`.
    """
    along = data.atoms @ direction.astype(np.float32)
    length = np.sqrt(np.einsum("td,td->t", data.atoms, data.atoms))
    aligned = np.flatnonzero(along >= LEAST_COSINE * np.maximum(length, 1e-12))
    latents = np.union1d(aligned, main)
    is_main = np.isin(latents, main)
    usual = np.zeros(len(latents))
    for rows in data.blocks(negative):
        usual += data.codes(rows, latents).sum(axis=0, dtype=np.float64)
    usual /= len(negative)
    evidence = data.embedding.times(direction[:, None])[:, 0]
    evidence -= evidence[negative].mean()
    columns, fractions = [], []
    for rows in data.blocks(images):
        codes = data.codes(rows, latents)
        silent = (codes[:, is_main] == 0).all(axis=1)
        parts = (codes - usual.astype(np.float32)) * along[latents]
        column, fraction = absorbed(silent, parts, is_main, evidence[rows])
        columns.append(column)
        fractions.append(fraction)
    column = np.concatenate(columns)
    return np.where(column >= 0, latents[column], -1), np.concatenate(fractions)


def absorbed(
    silent: np.ndarray, parts: np.ndarray, is_main: np.ndarray, evidence: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the column of the latent that absorbs the concept in each image, and the fraction.

    The column is -1 if the concept is not absorbed.

    Parameters
    ----------
    silent : [n] bool
        Whether no main latent fires.
    parts : [n, m]
        The part of each main or aligned latent in the evidence.
    is_main : [m] bool
    evidence : [n]
    """
    mine = parts[:, is_main].sum(axis=1, dtype=np.float64)
    others = np.where(is_main, 0.0, np.maximum(parts, 0.0))
    whole = silent & (evidence > 0) & (others.max(axis=1) >= LEAST_SHARE * evidence)
    column = np.where(whole, others.argmax(axis=1), -1)
    most = min(MOST_ABSORBING, others.shape[1])
    carried = -np.partition(-others, most - 1, axis=1)[:, :most].sum(axis=1, dtype=np.float64)
    counts = (evidence > 0) & (mine < evidence) & (carried >= LEAST_SHARE * evidence)
    theirs = np.minimum(carried, evidence - mine)
    share = np.divide(theirs, theirs + mine, out=np.ones(len(evidence)), where=mine > 0)
    return column, np.where(counts, share, 0.0)
