"""What predictions rest on: keeping or dropping groups of latents at the head layer.

The head layer is averaged over its cells and then mapped linearly to a logit, so an edit of the
codes needs no pass through the network. With z_t the mean of latent t's code over an image's
cells, d_t its atom, b_dec the SAE's bias, and w, b the head's row for a concept,

    spliced logit   = b + w.b_dec + sum_t z_t (w.d_t)
    original logit  = spliced logit + w.(mean of the SAE's error)

``on`` keeps the k first latents of a ranking and drops the others, ``off`` drops the k first. The
``spliced`` version reads the edited reconstruction (Mammo-SAE, arXiv 2507.15227, section 3.3); the
``error_preserving`` one subtracts the dropped latents' share from the original logit, so that what
the SAE misses stays (Marks et al., arXiv 2403.19647). Dropping sets a code to 0; setting it to its
mean instead shifts every image's logit alike, which changes no AUROC or AUPRC.

Controls beside every ranking: latents in random order, and latents ``matched`` to the ranked ones
in firing rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from mammo_sae.analysis import cases as case
from mammo_sae.analysis import statistics as st
from mammo_sae.analysis.settings import InterventionSettings
from mammo_sae.encoders.heads import Head, load_head
from mammo_sae.errors import InputError
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table, write_table

MEASURES = ("auroc", "auprc", "precision", "recall", "f1")
# Sums of the same numbers in another order differ by rounding; without this a latent set that
# decides nothing would rank images by noise.
DIGITS = 9
MATCHED_BLOCK = 20  # neighbours in firing rate among which a matched control is drawn


def run(
    settings: InterventionSettings,
    *,
    identity: case.Identity,
    images: Path,
    codes: Path,
    sae: Path,
    head: Path,
    predictions: Path,
    latents: Path,
    concepts: Sequence[str],
    output: Path,
) -> None:
    """Write one SAE's table of interventions, one row per edit, concept and split.

    Parameters
    ----------
    images
        Image table.
    codes, sae
        Manifest of the codes and `sae.json` of the SAE that made them.
    head
        Directory of the encoder's head.
    predictions
        The encoder's logits, one row per image and concept.
    latents
        Table that probing wrote for the same SAE.

    Raises
    ------
    InputError
        If the codes are not of the head layer or the head lacks a concept.
    """
    parts = []
    inputs = Inputs(images, codes, sae, head, predictions, latents)
    for concept, split, data, ranked in each_edit(settings, inputs, concepts):
        part = intervention_table(settings, data, ranked)
        part.insert(0, "concept", concept)
        part.insert(1, "split", split)
        parts.append(part)
    write_table(identity.label(pd.concat(parts, ignore_index=True)), output)


@dataclass(frozen=True)
class Inputs:
    """Paths that an SAE's head interventions read; meanings as in `run`."""

    images: Path
    codes: Path
    sae: Path
    head: Path
    predictions: Path
    latents: Path


class Editable(Protocol):
    """One concept's logits over n images, and how they change when latents are dropped.

    `labels` [n] bool and `patients` [n] belong to the images.
    """

    labels: np.ndarray
    patients: np.ndarray

    def logits(self, kept: np.ndarray, splice: str) -> np.ndarray:
        """Return the logits [n, e] of `e` edits, `kept` [h, e] true where a latent stays."""
        ...


class TopK(Protocol):
    """The settings that `intervention_table` reads."""

    seed: int
    bootstrap_draws: int
    top_k: tuple[int, ...]
    rankings: tuple[Any, ...]
    random_sets: int


@dataclass(frozen=True)
class Edits:
    """At the head: what every edit of one concept's logits over n images follows from.

    Attributes
    ----------
    contributions : [n, h] float64
        Mean code times effect of every latent.
    offset
        Logit with all latents dropped.
    original : [n]
        Logit of the network without the SAE.
    labels : [n] bool
    patients : [n]
    """

    contributions: np.ndarray
    offset: float
    original: np.ndarray
    labels: np.ndarray
    patients: np.ndarray

    def logits(self, kept: np.ndarray, splice: str) -> np.ndarray:
        """Return the logits [n, e] of `e` edits, `kept` [h, e] true where a latent stays."""
        on = self.contributions @ kept.astype(np.float64)
        if splice == "spliced":
            return self.offset + on
        return (self.original - self.contributions.sum(axis=1))[:, None] + on


def each_edit(
    settings: InterventionSettings, inputs: Inputs, concepts: Sequence[str]
) -> Iterator[tuple[str, str, Edits, pd.DataFrame]]:
    """Yield (concept, split, edits, the concept's rows of the latents table by latent).

    Raises
    ------
    InputError
        If the codes are not of the head layer, the head lacks a concept, or no split has labels.
    """
    reader = CodesReader(inputs.codes)
    if reader.grid.layer != settings.layer:
        raise InputError(
            f"{inputs.codes} holds codes of layer {reader.grid.layer}; "
            f"interventions are made at layer {settings.layer}"
        )
    autoencoder = SparseAutoencoder.load(inputs.sae)
    atoms, bias = autoencoder.decoder_weight.numpy(), autoencoder.decoder_bias.numpy()
    weights = load_head(inputs.head)
    cases = case.read_cases(inputs.images, reader.image_ids)
    table, logits = read_table(inputs.latents), read_table(inputs.predictions)
    found = False
    for concept in concepts:
        effects, offset = latent_effects(weights, concept, atoms, bias)
        ranked = table[table["concept"] == concept].sort_values("latent")
        original = original_logits(logits, concept, reader.image_ids)
        for split in settings.splits:
            rows = case.labelled(cases, concept, split)
            if not len(rows):
                continue
            found = True
            means = reader.mean([reader.image_ids[i] for i in rows])
            data = Edits(
                contributions=means.astype(np.float64) * effects,
                offset=offset,
                original=original[rows],
                labels=case.labels(cases, concept, rows),
                patients=cases["patient_id"].to_numpy()[rows],
            )
            yield concept, split, data, ranked
    if not found:
        raise InputError(
            f"{inputs.images}: no labelled image in splits {', '.join(settings.splits)}; "
            "correct interventions.splits"
        )


def latent_effects(
    head: Head, concept: str, decoder: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return w.d_t for every latent, [h], and the logit without any latent, b + w.b_dec."""
    row = head.row(concept)
    weight = head.weight[row].astype(np.float64)
    effects = decoder.astype(np.float64) @ weight
    return effects, float(head.bias[row] + weight @ bias.astype(np.float64))


def original_logits(
    predictions: pd.DataFrame, concept: str, image_ids: Sequence[str]
) -> np.ndarray:
    """Return the encoder's logits [n] for `concept`, in the order of `image_ids`."""
    rows = predictions[predictions["concept"] == concept].set_index("image_id")["logit"]
    result = rows.reindex(list(image_ids)).to_numpy(dtype=np.float64)
    if np.isnan(result).any():
        missing = image_ids[int(np.flatnonzero(np.isnan(result))[0])]
        raise InputError(
            f"predictions hold no {concept} logit of image {missing}; run the head's step again"
        )
    return result


def ranked_order(ranked: pd.DataFrame, ranking: str) -> np.ndarray:
    """Return latents [h], first the best by `ranking`; unranked ones last, by number."""
    place = ranked[f"rank_{ranking}"].to_numpy(dtype=np.float64, na_value=np.inf)
    return np.lexsort((ranked["latent"].to_numpy(), place))


def union_places(ranked: pd.DataFrame) -> np.ndarray:
    """Return [h] the place of every latent in the better of both classes' class-mean rankings.

    The k places are the union of the positive class's top k and the negative class's top k, the
    group that Mammo-SAE edits.
    """
    places = []
    for column in ("mean_positive", "mean_negative"):
        order = np.argsort(-ranked[column].to_numpy(dtype=np.float64), kind="stable")
        place = np.empty(len(order))
        place[order] = np.arange(len(order))
        places.append(place)
    return np.minimum(*places)


def matched_order(order: np.ndarray, firing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an order whose j-th latent fires about as often as the j-th of `order` [h].

    Latents are permuted among their neighbours in firing rate, never across blocks of
    `MATCHED_BLOCK`, so every latent stays in the order exactly once.
    """
    by_rate = np.argsort(firing, kind="stable")
    partner = np.arange(len(firing))
    for start in range(0, len(firing), MATCHED_BLOCK):
        block = by_rate[start : start + MATCHED_BLOCK]
        partner[block] = rng.permutation(block)
    return partner[order]


def first(order: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Return bool [h, e]: column e holds the first ``counts[e]`` latents of `order`."""
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place[:, None] < np.asarray(counts)[None]


def intervention_table(settings: TopK, data: Editable, ranked: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one concept and split.

    `ranked` [h] are the concept's rows of the latents table, by latent. Intervals are the patient
    bootstrap's for ranked latents, and the spread (central 95 %) over the sets for controls.
    """
    h = len(ranked)
    counts = sorted({min(k, h) for k in settings.top_k} | {h})
    rng = np.random.default_rng(settings.seed)
    firing = ranked["firing_rate"].to_numpy()
    # Latents with the same code everywhere in discovery carry nothing; they come last.
    alive = np.flatnonzero(ranked["rank_class_mean"].notna().to_numpy())
    rest = np.setdiff1d(np.arange(h), alive)
    parts = []
    for ranking in settings.rankings:
        order = ranked_order(ranked, ranking)
        parts.append(_edit_rows(settings, data, first(order, counts), counts, ranking))
        matched = [matched_order(order, firing, rng) for _ in range(settings.random_sets)]
        parts.append(_control_rows(data, matched, counts, ranking, "matched"))
    union = union_places(ranked)[:, None] < np.asarray(counts)
    parts.append(_edit_rows(settings, data, union, counts, "class_union"))
    random = [np.append(rng.permutation(alive), rest) for _ in range(settings.random_sets)]
    parts.append(_control_rows(data, random, counts, "random", "random"))
    table = pd.concat(parts, ignore_index=True)
    reason = st.why_not_estimable(data.labels)
    table["reason"] = reason
    if reason:
        table[[f"{m}{end}" for m in MEASURES for end in ("", "_low", "_high")]] = np.nan
    return table


def _edits(
    data: Editable, members: np.ndarray, counts: Sequence[int]
) -> list[tuple[dict[str, object], np.ndarray]]:
    """Return (columns, logits [n, e]) for on and off, spliced and error-preserving."""
    result = []
    for mode in ("on", "off"):
        kept = members if mode == "on" else ~members
        for splice in ("spliced", "error_preserving"):
            columns = {
                "mode": mode,
                "splice": splice,
                "k": list(counts),
                "latents_kept": kept.sum(axis=0),
            }
            result.append((columns, data.logits(kept, splice)))
    return result


def _measures(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> dict[str, np.ndarray]:
    logits = np.round(logits, DIGITS)
    precision, recall, f1 = st.precision_recall_f1(logits, labels, weights)
    return dict(
        zip(
            MEASURES,
            (
                st.auroc(logits, labels, weights),
                st.auprc(logits, labels, weights),
                precision,
                recall,
                f1,
            ),
            strict=True,
        )
    )


def _edit_rows(
    settings: TopK,
    data: Editable,
    members: np.ndarray,
    counts: Sequence[int],
    ranking: str,
) -> pd.DataFrame:
    weights = st.patient_weights(data.patients, settings.bootstrap_draws, settings.seed)
    parts = []
    for columns, logits in _edits(data, members, counts):
        part = pd.DataFrame({"ranking": ranking, "selection": "ranked", **columns})
        values = _measures(logits, data.labels, None)
        draws = _measures(logits, data.labels, weights)
        for name in MEASURES:
            part[name] = values[name]
            part[f"{name}_low"], part[f"{name}_high"] = st.interval(draws[name])
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _control_rows(
    data: Editable,
    orders: Sequence[np.ndarray],
    counts: Sequence[int],
    ranking: str,
    selection: str,
) -> pd.DataFrame:
    members = np.concatenate([first(order, counts) for order in orders], axis=1)
    parts = []
    for columns, logits in _edits(data, members, list(counts) * len(orders)):
        columns = {**columns, "k": list(counts), "latents_kept": columns["latents_kept"]}
        columns["latents_kept"] = np.asarray(columns["latents_kept"])[: len(counts)]
        part = pd.DataFrame({"ranking": ranking, "selection": selection, **columns})
        for name, values in _measures(logits, data.labels, None).items():
            sets = np.asarray(values).reshape(len(orders), len(counts)).T
            part[name] = np.where(np.isnan(sets).all(axis=1), np.nan, _mean(sets))
            part[f"{name}_low"], part[f"{name}_high"] = st.interval(sets)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _mean(sets: np.ndarray) -> np.ndarray:
    known = ~np.isnan(sets)
    return np.where(known, sets, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
