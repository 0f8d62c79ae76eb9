"""Step: compare the numbers published with Mammo-SAE (arXiv 2507.15227) with those of the run.

The table has one row per published number. If the run has no value for it, the row says what is
missing. Rows that are counts of the cohort have no interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.cohorts.units import FINDING
from mammo_sae.report.settings import PublishedSettings
from mammo_sae.stores.tables import read_table, write_table

MASS, CALCIFICATION = "mass", "suspicious_calcification"
GROUP = "both_ends"
# (model, concept) -> AUROC of the network, and with the SAE's reconstruction in its place.
SPLICED = {
    ("pretrained", MASS): (0.7866, 0.7638),
    ("finetuned", MASS): (0.8562, 0.8555),
    ("pretrained", CALCIFICATION): (0.9515, 0.9327),
    ("finetuned", CALCIFICATION): (0.9790, 0.9790),
}
# Latents of each class kept -> AUROC; twice as many are kept in all.
TOP_K = {0: 0.500, 1: 0.668, 5: 0.911, 10: 0.964, 50: 0.978, 100: 0.978}
# Numbers of rows of findings, and of positive rows, in both splits.
ROWS = {"training": 16391, "test": 4095}
POSITIVE = {
    CALCIFICATION: {"training": 428, "test": 115},
    MASS: {"training": 989, "test": 237},
}
POSITIVE_WEIGHT = {CALCIFICATION: 37.2967, MASS: 15.5733}
AUPRC_WITHOUT_LATENTS = 0.028083
# Number of latents whose class mean is above the mean of all images: the fewest and the most over
# classes, models and concepts.
ABOVE_ALL = (31, 797)
SHARED, TOP = 5, 10
LABELS = "labels: published by finding row, ours by image, so no image has contradictory labels"


@dataclass(frozen=True)
class Found:
    """The run's result for one number: value, interval and differences, or the reason for none."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    labels: str = ""
    differs: str = ""
    reason: str = ""


def run(
    settings: PublishedSettings,
    *,
    encoders: Path,
    latents: Path,
    interventions: Path,
    csv: Path,
    parquet: Path,
) -> list[Path]:
    """Compare the numbers of Mammo-SAE's paper with those of the run.

    Parameters
    ----------
    settings
        The encoder and SAE of the run for each model of the paper.
    encoders, latents, interventions
        Tables of all encoders and SAEs.
    csv, parquet
        The table to write: figure, model, concept, k, published, ours, low and high (95 %
        patient-bootstrap interval), difference (ours - published), labels, differs, reason.
    """
    book = Book(settings, read_table(encoders), read_table(latents), read_table(interventions))
    table = pd.DataFrame(list(rows(book))).astype({"k": "Int32"})
    write_table(table, csv)
    write_table(table, parquet)
    return [csv, parquet]


class Book:
    """The run's tables, with functions that return the values for the paper's models."""

    def __init__(
        self,
        settings: PublishedSettings,
        encoders: pd.DataFrame,
        latents: pd.DataFrame,
        interventions: pd.DataFrame,
    ) -> None:
        self._settings = settings
        self.split = settings.split
        self._scores = encoders
        self._latents = latents[(latents["layer"] == "head") & (latents["sae"] == settings.sae)]
        self._edits = interventions[
            (interventions["layer"] == "head")
            & (interventions["sae"] == settings.sae)
            & (interventions["split"] == settings.split)
            & (interventions["ranking"] == GROUP)
            & (interventions["splice"] == "spliced")
            & (interventions["mode"] == "on")
        ]

    def encoder(self, model: str, concept: str) -> str | None:
        """Return the run's name of one of the paper's models."""
        return getattr(self._settings, f"{model}_{concept}")

    def score(self, model: str, concept: str, split: str, measure: str) -> Found:
        """Return the value of column `measure` in the table of encoders."""
        name = self.encoder(model, concept)
        if name is None:
            return _lacks(f"{model}_{concept}")
        where = {"encoder": name, "concept": concept, "split": split}
        return _one(self._scores, where, measure, self._settings.split)

    def spliced(self, model: str, concept: str, k: int | None, measure: str) -> Found:
        """Return a score at the head with 2 k latents kept, or with all latents if k is None."""
        name = self.encoder(model, concept)
        if name is None:
            return _lacks(f"{model}_{concept}")
        here = self._edits[(self._edits["encoder"] == name) & (self._edits["concept"] == concept)]
        wanted = here["k"].max() if k is None else k
        return _one(here, {"k": wanted}, measure, self._settings.split, f"k = {wanted}")

    def ranked(self, model: str, concept: str) -> pd.DataFrame | None:
        """Return a model's latents, ranked for the concept that it predicts, of the first seed.

        None if the run has no such latents.
        """
        here = self._latents
        here = here[(here["encoder"] == self.encoder(model, concept))]
        here = here[here["concept"] == concept]
        return here[here["seed"] == here["seed"].min()] if len(here) else None


def rows(book: Book) -> Iterator[dict[str, object]]:
    """Yield a row for every published number."""
    for concept, splits in POSITIVE.items():
        for split, positives in splits.items():
            name = f"{split}: "
            yield _row(
                name + "rows scored", concept, ROWS[split], _any(book, concept, split, "scored")
            )
            found = _any(book, concept, split, "positives")
            yield _row(name + "positive rows", concept, positives, found)
        scored, found = (_any(book, concept, "training", c) for c in ("scored", "positives"))
        weight = Found(
            (scored.value - found.value) / found.value if found.value else np.nan,
            labels=found.labels,
            differs=found.differs,
            reason=found.reason,
        )
        published = POSITIVE_WEIGHT[concept]
        yield _row("weight of positives in training", concept, published, weight)
    for (model, concept), (without, with_sae) in SPLICED.items():
        found = book.score(model, concept, book.split, "auroc")
        yield _row("AUROC without SAE", concept, without, found, model)
        found = book.spliced(model, concept, None, "auroc")
        yield _row("AUROC with SAE", concept, with_sae, found, model)
    for k, published in TOP_K.items():
        found = book.spliced("finetuned", CALCIFICATION, k, "auroc")
        figure = "AUROC, top k of each class kept"
        yield _row(figure, CALCIFICATION, published, found, "finetuned", k)
    found = book.spliced("finetuned", CALCIFICATION, 0, "auprc")
    figure = "AUPRC without latents"
    yield _row(figure, CALCIFICATION, AUPRC_WITHOUT_LATENTS, found, "finetuned", 0)
    yield from _latent_rows(book)


def _latent_rows(book: Book) -> Iterator[dict[str, object]]:
    counts, missing = [], []
    for model, concept in SPLICED:
        ranked = book.ranked(model, concept)
        if ranked is None:
            missing.append(f"{model}_{concept}")
        else:
            # The mean of all images lies between both class means. So one class mean is above it
            # if the difference is positive, and the other if the difference is negative.
            difference = ranked["mean_difference"]
            counts += [int((difference > 0).sum()), int((difference < 0).sum())]
    differs = f"ours without {', '.join(missing)}" if missing else ""
    for end, published, choose in (("fewest", ABOVE_ALL[0], min), ("most", ABOVE_ALL[1], max)):
        found = Found(choose(counts), differs=differs) if counts else _lacks(missing[0])
        figure = f"latents whose class mean is above that of all images, {end}"
        yield _row(figure, "", published, found)
    tops = {concept: book.ranked("finetuned", concept) for concept in (MASS, CALCIFICATION)}
    lacking = [concept for concept, ranked in tops.items() if ranked is None]
    found = _lacks(f"finetuned_{lacking[0]}") if lacking else Found()
    if not lacking:
        first = [
            set(ranked.nsmallest(TOP, "rank_mean_difference")["latent"])
            for ranked in tops.values()
            if ranked is not None
        ]
        found = Found(len(first[0] & first[1]))
    yield _row(f"top {TOP} latents shared by both concepts", "", SHARED, found, "finetuned")


def _any(book: Book, concept: str, split: str, measure: str) -> Found:
    """Return a count of the cohort, from the row of either model, since both rows have it."""
    found = book.score("finetuned", concept, split, measure)
    return found if not found.reason else book.score("pretrained", concept, split, measure)


def _one(
    table: pd.DataFrame, where: Mapping[str, object], measure: str, split: str, named: str = ""
) -> Found:
    here = table
    for name, value in where.items():
        here = here[here[name] == value]
    if here.empty:
        what = named or " ".join(str(value) for value in where.values())
        return Found(reason=f"the run has no row for {what}")
    row = here.iloc[0]
    labels = str(row["labels"])
    parts = [LABELS] if labels != FINDING else []
    if split != "test":
        parts.append(f"split: published test, ours {split}")
    low, high = (float(row.get(f"{measure}_{end}", np.nan)) for end in ("low", "high"))
    reason = str(row["reason"]) if measure not in {"scored", "positives"} else ""
    return Found(float(row[measure]), low, high, labels, "; ".join(parts), reason)


def _lacks(name: str) -> Found:
    return Found(reason=f"the run has no such model: name it in report.published.{name}")


def _row(
    figure: str, concept: str, published: float, found: Found, model: str = "", k: int | None = None
) -> dict[str, object]:
    return {
        "figure": figure,
        "model": model,
        "concept": concept,
        "k": pd.NA if k is None else k,
        "published": float(published),
        "ours": found.value,
        "low": found.low,
        "high": found.high,
        "difference": found.value - published,
        "labels": found.labels,
        "differs": found.differs,
        "reason": found.reason,
    }
