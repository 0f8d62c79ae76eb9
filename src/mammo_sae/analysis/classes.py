"""Step: predict density as one of four classes, with latents kept or dropped at the head.

The concepts of the classes A to D give four logits, from one classifier with four outputs or from
one linear probe per class. The class with the largest logit is the prediction. The scores are those
of Mammo-SAE's public scripts (arXiv 2507.15227): accuracy and macro-F1. The group of latents is the
union over the classes of the first k latents of each class's ranking. A class ranks latents by its
mean code minus the mean code of all images, which gives the order of ``mean_difference`` of the
class against the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis.edits import DIGITS
from mammo_sae.analysis.linear import Inputs, Shares, each_share
from mammo_sae.cohorts.labels import labelling
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import InterventionSettings

MEASURES = ("accuracy", "macro_f1")
ORIGINAL = "original"


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
) -> list[Path]:
    """Write one SAE's scores for the four classes, one row per split, mode and k.

    Parameters
    ----------
    images
        Image table.
    codes
        Manifest of the SAE's codes.
    sae
        Description (`sae.json`) of the SAE.
    head
        Directory of the encoder's head.
    latents
        Latents table of the same SAE, written by the step `latents`.
    predictions
        The encoder's logits, one row per image and concept.
    concepts
        The concepts of the classes, in order.
    output
        Table to write: split, labels, mode (``original``: the network without the SAE; ``on``,
        ``off``: the reconstruction with the group kept or dropped), k, latents_kept, accuracy and
        macro_f1 with the ends of their 95 % patient-bootstrap intervals, reason.

    Raises
    ------
    InputError
        If the codes are not of the head layer or the head lacks a class.
    """
    reader = CodesReader(codes)
    unit = labelling(case.read_cases(images, reader.image_ids), concepts)
    logits = read_table(predictions).pivot(index="image_id", columns="concept", values="logit")
    whole = logits.reindex(reader.image_ids)[[*concepts]].to_numpy(dtype=np.float64)
    parts = []
    inputs = Inputs(images, codes, sae, head, latents)
    for split in settings.splits:
        shares = list(each_share(inputs, concepts, [split], output.parent))
        part = class_table(settings, shares, whole)
        part.insert(0, "split", split)
        part.insert(1, "labels", unit)
        parts.append(part)
    write_table(identity.label(pd.concat(parts, ignore_index=True)), output)
    return [output]


def class_table(
    settings: InterventionSettings, shares: Sequence[Shares], original: np.ndarray
) -> pd.DataFrame:
    """Return the rows of one split, one per mode and k.

    Parameters
    ----------
    shares
        One per class, in order, over the same images.
    original : [all images, classes]
        Logits of the network without the SAE.
    """
    rows, patients = shares[0].rows, shares[0].patients
    truth = np.stack([share.labels for share in shares], axis=1).argmax(axis=1)
    drawn = st.PatientDraws(patients, settings.bootstrap_draws, settings.seed)
    h = len(shares[0].ranked)
    reason = _why_not_estimable(truth, patients, len(shares))
    found = []
    edits = [(ORIGINAL, pd.NA, h, original[rows])]
    places = np.stack([_places(share.ranked) for share in shares]).min(axis=0)
    counts = sorted({min(k, h) for k in settings.top_k} | {h})
    members = places[:, None] < np.asarray(counts)
    kept = np.concatenate([members, ~members], axis=1)
    logits = [share.offset + share.means.times(share.weights[:, None] * kept) for share in shares]
    for j, k in enumerate(counts):
        for mode, e in (("on", j), ("off", len(counts) + j)):
            of_edit = np.stack([part[:, e] for part in logits], axis=1)
            edits.append((mode, k, int(kept[:, e].sum()), of_edit))
    for mode, k, kept_count, of_edit in edits:
        row = {"mode": mode, "k": k, "latents_kept": kept_count}
        row |= dict.fromkeys(
            [f"{m}{end}" for m in MEASURES for end in ("", "_low", "_high")], np.nan
        )
        if not reason:
            answer = np.round(of_edit, DIGITS).argmax(axis=1)
            values = scores(answer, truth, np.ones((len(truth), 1)))
            draws = drawn.of(partial(scores, answer, truth))
            for name in MEASURES:
                row[name] = float(values[name][0])
                row[f"{name}_low"], row[f"{name}_high"] = st.interval(draws[name])
        found.append({**row, "reason": reason})
    return pd.DataFrame(found).astype({"k": "Int32"})


def scores(answer: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return the accuracy and macro-F1, each [draws], of the predicted classes `answer` [n].

    `truth` [n] holds the true classes, and `weights` [n, draws] how often each image was drawn.
    Macro-F1 is the mean of F1 over classes. A class that is neither predicted nor true in a draw is
    left out of this mean, as in scikit-learn.
    """
    weights = np.asarray(weights, dtype=np.float64)
    right = answer == truth
    total = weights.sum(axis=0)
    f1, there = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for name in np.union1d(answer, truth):
        hits = weights[right & (truth == name)].sum(axis=0)
        either = weights[answer == name].sum(axis=0) + weights[truth == name].sum(axis=0)
        f1 += np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)
        there += either > 0
    return {"accuracy": weights[right].sum(axis=0) / total, "macro_f1": f1 / there}


def _places(ranked: pd.DataFrame) -> np.ndarray:
    """Return [h]: each latent's place, from 0, in the order of falling mean difference."""
    place = np.empty(len(ranked), dtype=np.int64)
    difference = ranked["mean_difference"].to_numpy(dtype=np.float64)
    place[np.argsort(-difference, kind="stable")] = np.arange(len(ranked))
    return place


def _why_not_estimable(truth: np.ndarray, patients: np.ndarray, classes: int) -> str:
    counts = st.patients_per_group(truth, patients, classes)
    enough = int((counts >= st.MIN_POSITIVES).sum())
    return "" if enough >= 2 else f"fewer than 2 classes with {st.MIN_POSITIVES} patients"
