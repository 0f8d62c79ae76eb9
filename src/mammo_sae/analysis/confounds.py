"""Step: test whether a latent's association with a concept is due to a confounder.

Latents are chosen on the discovery split and measured on the confirmation split. With z a latent's
image score, Y the concept and C the confounder:

- ``crude_auroc``: AUROC of z for Y.
- ``stratified_auroc``: AUROC of z for Y over pairs of images with equal C. ``kept`` is its excess
  over 0.5, divided by that of the crude AUROC.
- ``conditional_auroc``: AUROC of z for C over pairs of images with equal Y, for the level of C that
  z discriminates best. Its p-value comes from exchanges of C between patients of equal Y (partial
  confounder test, Spisak 2022, PMC9412867; see `mammo_sae.analysis.exchange`). Its q-value corrects
  for all of the concept's latents and all confounders (`mammo_sae.statistics.family_q`).
- ``artefact_lift``: share of z's activation on the artefact's mask, divided by the mask's share of
  the image, over images with such a mask; ``concept_lift`` is the same for the lesion.

`mammo_sae.analysis.verdict` turns these numbers into verdicts for the latents that are associated
with Y. The latents that are not associated with Y form a family of their own in the correction for
multiple tests, so they do not change the q-values of the associated latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis import cells, exchange
from mammo_sae.analysis.candidates import read_candidates, unsaid, why_unknown
from mammo_sae.analysis.columns import TISSUE, candidates
from mammo_sae.analysis.groups import too_few_levels, usable_levels
from mammo_sae.analysis.levels import Levels, levels
from mammo_sae.analysis.verdict import discriminates, verdict
from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import ConfoundSettings

COINCIDES = 0.8
"""Least Cramer's V at which a confounder almost coincides with a concept."""


def run(
    settings: ConfoundSettings,
    *,
    identity: case.Identity,
    images: Path,
    image_stores: Sequence[Path],
    codes: Path,
    latents: Path,
    concepts: Sequence[str],
    measurements: Sequence[Path],
    output: Path,
) -> list[Path]:
    """Test whether each latent's association with a concept is due to a confounder.

    Parameters
    ----------
    images
        Image table.
    image_stores
        Manifests of the canonical images, all shards.
    codes
        Manifest of the SAE's codes.
    latents
        Latents table of the same SAE, written by the step `latents`.
    concepts
        Columns of the image table.
    measurements
        Tables of the step `measurements`, all shards.
    output
        Table to write (.parquet): a row per latent, concept and confounder.
    """
    reader = CodesReader(codes)
    store = ImageReader(image_stores, concept_regions(images))
    cases, acquisition = read_candidates(images, reader.image_ids, store, concepts, measurements)
    splits = (settings.discovery, settings.confirmation)
    anatomical = settings.anatomical
    if anatomical is None:
        anatomical = tuple(candidates(cases, TISSUE, splits, settings.max_levels))
    technical = settings.acquisition
    if technical is None:
        found = candidates(cases, acquisition, splits, settings.max_levels)
        found += unsaid(cases, splits)
        technical = tuple(n for n in found if n not in anatomical)
    settings = settings.model_copy(update={"acquisition": technical, "anatomical": anatomical})
    table = read_table(latents)
    chosen = {
        concept: case.top_latents(table, concept, settings.rankings, settings.top_latents)
        for concept in concepts
    }
    everything = np.unique(np.concatenate(list(chosen.values())))
    scores = reader.pooled(table["score"].iloc[0], latents=everything)
    names = (*technical, *anatomical)
    if not names:
        # No candidate is known and varies, so the table has no rows.
        names, chosen = ("none",), dict.fromkeys(concepts, np.empty(0, np.int64))
    lifts = energy_lifts(settings, reader, store, cases, everything, [*concepts, *names])
    parts = []
    for concept in concepts:
        place = np.searchsorted(everything, chosen[concept])
        for confounder in names:
            part = confounder_rows(settings, cases, scores[:, place], concept, confounder)
            part.insert(0, "latent", chosen[concept])
            for column, region in (("concept_lift", concept), ("artefact_lift", confounder)):
                for end, values in zip(("", "_low", "_high"), lifts[region], strict=True):
                    part[column + end] = values[place]
            parts.append(part)
    rows = judged(settings, pd.concat(parts), table)
    write_table(identity.label(rows), output)
    return [output]


def judged(settings: ConfoundSettings, rows: pd.DataFrame, latents: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `confounder_rows` with q, verdict and reason.

    `latents` is the table that the step `latents` wrote. Its AUROC, q and reason for the concept
    decide which latents are associated with the concept.
    """
    rows = rows.merge(
        latents[["latent", "concept", "auroc", "q", "reason"]].rename(
            columns={"auroc": "concept_auroc", "q": "concept_q", "reason": "no_association"}
        ),
        on=["latent", "concept"],
        how="left",
        validate="m:1",
    )
    rows["no_association"] = rows["no_association"].where(rows["concept_auroc"].isna(), "")
    rows["q"] = np.nan
    here = rows["concept_q"] < settings.alpha
    for _, family in rows.groupby(["concept", here]):
        p = family.pivot(index="latent", columns="confounder", values="p")
        q = pd.DataFrame(st.family_q(p.to_numpy()), index=p.index, columns=p.columns).stack()
        places = pd.MultiIndex.from_frame(family[["latent", "confounder"]])
        rows.loc[family.index, "q"] = q.reindex(places).to_numpy()
    decided = [verdict(settings, row) for row in rows.to_dict("records")]
    rows["verdict"] = [word for word, _ in decided]
    rows["reason"] = [reason for _, reason in decided]
    rows["discriminates"] = [discriminates(settings, row) for row in rows.to_dict("records")]
    return rows.drop(columns=["no_association", "problem", "inseparable"])


def confounder_rows(
    settings: ConfoundSettings,
    cases: pd.DataFrame,
    scores: np.ndarray,
    concept: str,
    confounder: str,
) -> pd.DataFrame:
    """Return the measures for one concept and confounder, one row per latent of `scores` [n, m].

    If a row could not be estimated, `problem` says why and its numbers are NaN. Then `inseparable`
    is true if the confounder describes the acquisition and almost coincides with the concept
    (`COINCIDES`), so that it can't be held fixed. Tissue may be the concept itself: all images of a
    density class have one density.
    """
    rows = pd.DataFrame(
        {
            "concept": concept,
            "confounder": confounder,
            "kind": "acquisition" if confounder in (settings.acquisition or ()) else "anatomical",
            "problem": [""] * scores.shape[1],
            "inseparable": False,
        }
    )
    for name in _MEASURED:
        rows[name] = "" if name in _TEXT else np.nan
    if confounder not in cases:
        rows["problem"] = f"the image table has no column {confounder}"
        return rows
    known = case.labelled(cases, concept, settings.confirmation)
    if cases[confounder].iloc[known].isna().all():
        rows["problem"] = why_unknown(cases.iloc[known], confounder)
        return rows
    category = levels(cases[confounder].iloc[known], settings.max_levels)
    known, code = known[category.code >= 0], category.code[category.code >= 0]
    truth = case.labels(cases, concept, known)
    patients = cases["patient_id"].to_numpy()[known]
    rows["images"] = len(known)
    sides = cases["side"].astype(str).to_numpy()[known]
    usable = usable_levels(Levels(code, category.names), truth, patients)
    rows["strata"] = len(usable.names)
    rows["problem"] = too_few_levels(len(usable.names), confounder)
    if len(usable.names) < 2:
        if confounder in (settings.acquisition or ()):
            _associate(settings, rows, truth, code, patients, sides)
            strong = rows["association"] >= COINCIDES
            rows["inseparable"] = strong & (rows["association_p"] < settings.alpha)
        return rows
    inside = usable.code >= 0
    known, code, truth = known[inside], usable.code[inside], truth[inside]
    patients, sides = patients[inside], sides[inside]
    rows["problem"] = exchange.why_not_exchangeable(code, patients, truth, sides)
    if rows["problem"].any():
        return rows
    _associate(settings, rows, truth, code, patients, sides)
    varies = ~st.is_constant(scores[known])
    rows.loc[~varies, "problem"] = f"{settings.confirmation}: the same score on every image"
    z = scores[known][:, varies]
    measured = _measured(settings, z, truth, code, usable.names, patients)
    measured["p"] = exchange.patient_permutation_p(
        z,
        code,
        patients,
        draws=settings.permutation_draws,
        seed=settings.seed,
        within=truth,
        breasts=sides,
        tests=scores.shape[1] * len((*(settings.acquisition or ()), *(settings.anatomical or ()))),
    )
    for name, values in measured.items():
        rows.loc[varies, name] = values
    return rows


def _associate(
    settings: ConfoundSettings,
    rows: pd.DataFrame,
    truth: np.ndarray,
    code: np.ndarray,
    patients: np.ndarray,
    sides: np.ndarray,
) -> None:
    """Add to `rows` the association of the concept's labels with the confounder's levels, all [n].

    The other arguments are those of `mammo_sae.analysis.exchange.patient_permutation_p`.
    """
    rows["association"] = st.cramers_v(truth, code)
    rows["association_p"] = exchange.patient_permutation_p(
        truth.astype(float),
        code,
        patients,
        draws=settings.permutation_draws,
        seed=settings.seed,
        breasts=sides,
    )


def _measured(
    settings: ConfoundSettings,
    z: np.ndarray,
    truth: np.ndarray,
    code: np.ndarray,
    names: Sequence[str],
    patients: np.ndarray,
) -> dict[str, Any]:
    """Return column -> values [m] of the AUROCs of latents' scores, without p-values.

    Parameters
    ----------
    z : [n, m]
        Scores of the latents.
    truth : [n] bool
        Labels of the concept.
    code : [n]
        Level of the confounder, as a position in `names`.
    names
        Names of the levels.
    patients : [n]
    """
    drawn = st.PatientDraws(patients, settings.bootstrap_draws, settings.seed)
    measured: dict[str, Any] = {}
    crude, crude_draws = st.auroc(z, truth), drawn.of(partial(st.auroc, z, truth))
    within = st.stratified_auroc(z, truth, code)
    within_draws = drawn.of(partial(st.stratified_auroc, z, truth, code))
    for name, value, draws in (
        ("crude_auroc", crude, crude_draws),
        ("stratified_auroc", within, within_draws),
        ("kept", _kept(within, crude), _kept(within_draws, crude_draws)),
    ):
        measured[name] = value
        measured[f"{name}_low"], measured[f"{name}_high"] = st.interval(draws)
    places = range(len(names))
    per_level = np.stack([st.auroc(z[code == level], truth[code == level]) for level in places])
    worst = per_level.argmin(axis=0)
    measured["worst_stratum_auroc"] = per_level.min(axis=0)
    measured["worst_stratum"] = [names[i] for i in worst]
    against = np.stack([st.stratified_auroc(z, code == level, truth) for level in places])
    best = np.abs(against - 0.5).argmax(axis=0)
    if len(names) == 2:
        # The AUROCs of two levels add up to 1. Name the second level: for a 0/1 covariate, it is
        # the presence of the artefact.
        best = np.ones_like(best)
    measured["confounder_level"] = [names[i] for i in best]
    measured["conditional_auroc"] = against[best, np.arange(z.shape[1])]
    measured["effect"] = 2 * measured["conditional_auroc"] - 1
    low, high = np.empty(z.shape[1]), np.empty(z.shape[1])
    unconditional = np.empty(z.shape[1])
    for level in places:
        mine = best == level
        score = partial(st.stratified_auroc, z[:, mine], code == level, truth)
        low[mine], high[mine] = st.interval(drawn.of(score))
        unconditional[mine] = st.auroc(z[:, mine], code == level)
    measured["conditional_auroc_low"], measured["conditional_auroc_high"] = low, high
    measured["confounder_auroc"] = unconditional
    measured["eta_squared"] = st.eta_squared(z, code)
    return measured


_TEXT = ("worst_stratum", "confounder_level")
_MEASURED = (
    "images",
    "strata",
    "association",
    "association_p",
    "crude_auroc",
    "crude_auroc_low",
    "crude_auroc_high",
    "stratified_auroc",
    "stratified_auroc_low",
    "stratified_auroc_high",
    "kept",
    "kept_low",
    "kept_high",
    "worst_stratum",
    "worst_stratum_auroc",
    "confounder_level",
    "confounder_auroc",
    "conditional_auroc",
    "conditional_auroc_low",
    "conditional_auroc_high",
    "effect",
    "eta_squared",
    "p",
)


def _kept(within: np.ndarray, crude: np.ndarray) -> np.ndarray:
    excess = np.asarray(crude) - 0.5
    return np.divide(within - 0.5, excess, out=np.full(excess.shape, np.nan), where=excess != 0)


def energy_lifts(
    settings: ConfoundSettings,
    reader: CodesReader,
    store: ImageReader,
    cases: pd.DataFrame,
    latents: np.ndarray,
    names: Sequence[str],
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return name -> (lift, low, high), each [m], over the confirmation images with that region.

    The lift is the share of a latent's activation inside the region, divided by the region's share
    of the image (not of the breast: artefacts lie outside it). It is NaN for names without a
    region, and for a latent that fires in images with the region of fewer than `MIN_POSITIVES`
    patients.
    """
    nothing = np.full(len(latents), np.nan)
    result = dict.fromkeys(names, (nothing, nothing, nothing))
    regions = [name for name in dict.fromkeys(names) if name in store.regions]
    images = np.flatnonzero((cases["split"] == settings.confirmation).to_numpy())
    if not regions or not len(images) or not len(latents):
        return result
    ids = cases["image_id"].to_numpy()
    extent = np.zeros((len(images), len(regions)), np.float32)
    cell = np.float32(reader.grid.stride**2)
    share = np.zeros((len(regions), len(images), len(latents)), np.float32)
    fires = np.zeros((len(images), len(latents)), bool)
    for rows, maps in cells.stream_maps(reader, images, latents):
        flat = maps.reshape(*maps.shape[:2], -1)
        total = flat.sum(axis=2)
        fires[rows] = total > 0
        _, areas = cells.image_areas(store, ids[images[rows]], regions, reader.grid)
        extent[rows] = areas.sum(axis=(2, 3)) / np.float32(store.height * store.width)
        covered = areas.reshape(len(flat), len(regions), -1) / cell
        inside = np.einsum("nmc,nrc->rnm", flat, covered, optimize=True)
        share[:, rows] = np.divide(inside, total, out=np.zeros_like(inside), where=total > 0)
    patients = cases["patient_id"].to_numpy()[images]
    for r, name in enumerate(regions):
        has = extent[:, r] > 0
        if not has.any():
            continue
        drawn = st.PatientDraws(patients[has], settings.bootstrap_draws, settings.seed)
        inside, area = share[r, has], extent[has, r, None] * fires[has]
        enough = _patients_firing(fires[has], patients[has]) >= st.MIN_POSITIVES
        lift = np.where(enough, _divide(inside.sum(0), area.sum(0)), np.nan)
        low, high = st.interval(drawn.of(partial(_lifts, inside, area)))
        result[name] = (lift, np.where(enough, low, np.nan), np.where(enough, high, np.nan))
    return result


def _lifts(inside: np.ndarray, area: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _divide(inside.T @ weights, area.T @ weights)


def _patients_firing(fires: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Return [m]: the number of patients with an image in which each latent of [n, m] fires."""
    _, first, member = np.unique(patients, return_index=True, return_inverse=True)
    order = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[order], np.arange(len(first)))
    return np.logical_or.reduceat(fires[order], starts, axis=0).sum(axis=0)


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = above.astype(np.float64), below.astype(np.float64)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
