"""Interventions: keep or drop groups of latents, at any layer, and score the edited predictions.

``on`` keeps the first k latents of a ranking and drops the others; ``off`` drops the first k. The
``splice`` defines the edited embedding:

- ``spliced``: the reconstruction from the remaining latents (Mammo-SAE, arXiv 2507.15227, section
  3.3);
- ``error_preserving``: the embedding minus the contributions of the dropped latents, so that the
  SAE's error stays (Marks et al., arXiv 2403.19647);
- ``mean_ablated``: the error-preserving embedding plus the contribution of each dropped latent's
  mean code in the discovery split (mean ablation). At the head this shifts the logits of all images
  equally, so AUROC and AUPRC equal those of ``error_preserving``.

Every ranking has two controls: latents in random order, and latents ``matched`` to the ranked ones
in firing rate. `mammo_sae.analysis.interventions` computes the edited logits in closed form, and
`mammo_sae.analysis.inner` computes them by running the rest of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis.thresholds import Editable, Thresholds

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import InnerSettings, InterventionSettings
    from mammo_sae.stores.codes import CodesReader

    EditSettings = InterventionSettings | InnerSettings

CALLED = ("precision", "recall", "f1")  # measures of the images that are called positive
MEASURES = ("auroc", "auprc", *CALLED, *(f"{name}_at_threshold" for name in CALLED))
NUMBERS = [f"{measure}{end}" for measure in MEASURES for end in ("", "_low", "_high")]
MEAN_ABLATED = "mean_ablated"
# Logits are rounded to this number of decimals, because sums of the same numbers in another order
# differ by rounding errors. Otherwise latents without any effect would rank images by these errors.
DIGITS = 9
NUMBERS_AT_ONCE = 1 << 20  # images times edits that are scored at a time
EDITED_LOGITS = 1 << 22  # edited logits of controls that are in memory at a time
MATCHED_BLOCK = 20  # a matched control is drawn among this many neighbours in firing rate


def mean_codes(codes: CodesReader, cases: pd.DataFrame, split: str) -> tuple[np.ndarray, str]:
    """Return float64 [h]: the mean codes over the images of `split`, and why they are not known.

    `cases` has a row per image of `codes`. Without an image in the split, the mean codes are NaN.
    With one, the reason is ``""``.
    """
    here = np.flatnonzero((cases["split"] == split).to_numpy(dtype=bool))
    reason = "" if len(here) else f"no image of split {split} gives mean codes"
    return codes.pooled_mean("mean", [codes.image_ids[i] for i in here]), reason


def ranked_order(ranked: pd.DataFrame, ranking: str) -> np.ndarray:
    """Return the indices of all latents [h], the best by `ranking` first.

    Latents without a rank come last, in the order of their index.
    """
    place = ranked[f"rank_{ranking}"].to_numpy(dtype=np.float64, na_value=np.inf)
    return np.lexsort((ranked["latent"].to_numpy(), place))


def union_places(ranked: pd.DataFrame) -> np.ndarray:
    """Return [h]: each latent's better place, from 0, in two rankings.

    The rankings are those by the mean code of positive and of negative images. The latents with
    places below k are the union of both classes' top k. Mammo-SAE's paper defines its groups of
    latents in this way.
    """
    places = []
    for column in ("mean_positive", "mean_negative"):
        order = np.argsort(-ranked[column].to_numpy(dtype=np.float64), kind="stable")
        place = np.empty(len(order))
        place[order] = np.arange(len(order))
        places.append(place)
    return np.minimum(*places)


def end_places(ranked: pd.DataFrame) -> np.ndarray:
    """Return [h]: each latent's place, from 0, counted from the nearer end of the ranking.

    The ranking is the order by mean difference.

    The latents with places below k are the k with the largest difference and the k with the
    smallest. The files published with Mammo-SAE rank latents for each class by the class mean minus
    the mean of all images. With two classes, one ranking is the reverse of the other, so the top k
    of both classes are 2 k latents.
    """
    places = np.empty((2, len(ranked)))
    difference = ranked["mean_difference"].to_numpy(dtype=np.float64)
    for place, values in zip(places, (-difference, difference), strict=True):
        place[np.argsort(values, kind="stable")] = np.arange(len(ranked))
    return places.min(axis=0)


def matched_order(order: np.ndarray, firing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an order whose j-th latent has a firing rate near that of the j-th of `order` [h].

    Latents are permuted within blocks of `MATCHED_BLOCK` neighbours in firing rate, so every latent
    occurs exactly once.
    """
    by_rate = np.argsort(firing, kind="stable")
    partner = np.arange(len(firing))
    for start in range(0, len(firing), MATCHED_BLOCK):
        block = by_rate[start : start + MATCHED_BLOCK]
        partner[block] = rng.permutation(block)
    return partner[order]


def first(order: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Return bool [h, e]: column e is True for the first ``counts[e]`` latents of `order` [h]."""
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place[:, None] < np.asarray(counts)[None]


def intervention_table(
    settings: EditSettings, data: Editable, thresholds: Thresholds, ranked: pd.DataFrame
) -> pd.DataFrame:
    """Return the rows of one concept and split.

    `ranked` [h] has the concept's rows of the latents table, by latent. The intervals of ranked
    latents come from the patient bootstrap. The intervals of controls are the central 95 % over the
    random orders. ``precision``, ``recall`` and ``f1`` call an image positive if its logit is above
    0. In the columns that end with ``_at_threshold``, it is called if its logit is at least the
    edit's `threshold`, which `thresholds` chose on other patients. For controls, `threshold` is the
    mean over the random orders.
    """
    h = len(ranked)
    counts = sorted({min(k, h) for k in settings.top_k} | {h})
    rng = np.random.default_rng(settings.seed)
    firing = ranked["firing_rate"].to_numpy()
    # Latents with the same code on all discovery images have no information, so they come last.
    alive = np.flatnonzero(ranked["rank_class_mean"].notna().to_numpy())
    rest = np.setdiff1d(np.arange(h), alive)
    parts = []
    for ranking in settings.rankings:
        order = ranked_order(ranked, ranking)
        parts.append(_edit_rows(settings, data, thresholds, first(order, counts), counts, ranking))
        matched = [matched_order(order, firing, rng) for _ in range(settings.random_sets)]
        parts.append(_control_rows(settings, data, thresholds, matched, counts, ranking, "matched"))
    for name, places in (("class_union", union_places), ("both_ends", end_places)):
        group = places(ranked)[:, None] < np.asarray(counts)
        parts.append(_edit_rows(settings, data, thresholds, group, counts, name))
    random = [np.append(rng.permutation(alive), rest) for _ in range(settings.random_sets)]
    parts.append(_control_rows(settings, data, thresholds, random, counts, "random", "random"))
    table = pd.concat(parts, ignore_index=True)
    reason = st.why_not_estimable(data.labels, data.patients)
    table["reason"] = reason
    if reason:
        table[NUMBERS] = np.nan
        return table
    table["reason"] = thresholds.reason
    if data.unknown:
        here = table["splice"] == MEAN_ABLATED
        table.loc[here, ["threshold", *NUMBERS]] = np.nan
        table.loc[here, "reason"] = data.unknown
    return table


def _edits(
    settings: EditSettings,
    data: Editable,
    thresholds: Thresholds,
    members: np.ndarray,
    counts: Sequence[int],
) -> Iterator[tuple[dict[str, object], np.ndarray, np.ndarray]]:
    """Yield (columns of the table, logits [n, e], thresholds [e]) for each mode and splice.

    `members` [h, e] is True for the latents of each of e groups.
    """
    for mode in ("on", "off"):
        kept = members if mode == "on" else ~members
        for splice in settings.splices:
            columns = {
                "mode": mode,
                "splice": splice,
                "k": list(counts),
                "latents_kept": kept.sum(axis=0),
            }
            if splice == MEAN_ABLATED and data.unknown:
                nothing = np.full((len(data.labels), kept.shape[1]), 0.0)
                yield columns, nothing, np.full(kept.shape[1], np.nan)
                continue
            chosen = thresholds.of(kept, splice, DIGITS)
            yield columns, data.logits(kept, splice), chosen


def _measures(
    logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray, weights: np.ndarray | None
) -> dict[str, np.ndarray]:
    logits = np.round(logits, DIGITS)
    # A logit equal to the threshold is called: it is above the next smaller number.
    below = np.nextafter(thresholds, -np.inf)
    chosen = st.precision_recall_f1(logits, labels, weights, threshold=below)
    missing = np.isnan(thresholds)
    for values in chosen:
        values[missing] = np.nan
    return dict(
        zip(
            MEASURES,
            (
                st.auroc(logits, labels, weights),
                st.auprc(logits, labels, weights),
                *st.precision_recall_f1(logits, labels, weights),
                *chosen,
            ),
            strict=True,
        )
    )


def _scored(
    logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray
) -> dict[str, np.ndarray]:
    """Return `_measures` of all images, for a few edits at a time."""
    step = max(1, NUMBERS_AT_ONCE // max(1, len(labels)))
    parts = [
        _measures(logits[:, some], labels, thresholds[some], None)
        for some in (slice(start, start + step) for start in range(0, logits.shape[1], step))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in MEASURES}


def _edit_rows(
    settings: EditSettings,
    data: Editable,
    thresholds: Thresholds,
    members: np.ndarray,
    counts: Sequence[int],
    ranking: str,
) -> pd.DataFrame:
    drawn = st.PatientDraws(data.patients, settings.bootstrap_draws, settings.seed)
    parts = []
    for columns, logits, chosen in _edits(settings, data, thresholds, members, counts):
        part = pd.DataFrame({"ranking": ranking, "selection": "ranked", **columns})
        part["threshold"] = chosen
        values = _measures(logits, data.labels, chosen, None)
        draws = drawn.of(partial(_measures, logits, data.labels, chosen))
        for name in MEASURES:
            part[name] = values[name]
            part[f"{name}_low"], part[f"{name}_high"] = st.interval(draws[name])
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _control_rows(
    settings: EditSettings,
    data: Editable,
    thresholds: Thresholds,
    orders: Sequence[np.ndarray],
    counts: Sequence[int],
    ranking: str,
    selection: str,
) -> pd.DataFrame:
    # A few orders at a time, so that memory does not grow with the number of images.
    images = max(1, len(data.labels), thresholds.images)
    step = max(1, EDITED_LOGITS // (images * len(counts)))
    columns: dict[tuple[object, object], dict[str, object]] = {}
    found: dict[tuple[object, object], list[dict[str, np.ndarray]]] = {}
    for start in range(0, len(orders), step):
        some = orders[start : start + step]
        members = np.concatenate([first(order, counts) for order in some], axis=1)
        every = list(counts) * len(some)
        for about, logits, chosen in _edits(settings, data, thresholds, members, every):
            scores = {"threshold": chosen, **_scored(logits, data.labels, chosen)}
            kept = np.asarray(about["latents_kept"])[: len(counts)]
            key = about["mode"], about["splice"]
            columns[key] = {**about, "k": list(counts), "latents_kept": kept}
            found.setdefault(key, []).append(
                {name: v.reshape(len(some), len(counts)) for name, v in scores.items()}
            )
    parts = []
    for key, scores_of in found.items():
        part = pd.DataFrame({"ranking": ranking, "selection": selection, **columns[key]})
        for name in ("threshold", *MEASURES):
            sets = np.concatenate([scores[name] for scores in scores_of]).T
            part[name] = _mean(sets)
            if name != "threshold":
                part[f"{name}_low"], part[f"{name}_high"] = st.interval(sets)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _mean(sets: np.ndarray) -> np.ndarray:
    """Return the mean of each row of `sets` without its NaN values; NaN if all are NaN."""
    count = (~np.isnan(sets)).sum(axis=1)
    missing = np.full(len(sets), np.nan)
    return np.divide(np.nansum(sets, axis=1), count, out=missing, where=count > 0)
