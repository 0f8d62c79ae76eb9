"""Which latents get a page with images, and which images show a latent.

No latent and no image is chosen by eye or by chance: equal input gives equal choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np
import pandas as pd

from mammo_sae.report.latents import Example, pick_examples

TOP, QUANTILE = "highest activation", "quantiles of activation"
MISS, ALARM = "near misses", "false alarms"


def choose_latents(
    latents: pd.DataFrame,
    verdicts: pd.DataFrame,
    alignment: pd.DataFrame,
    effects: pd.DataFrame,
    count: int,
) -> np.ndarray:
    """Return at most `count` latents of one SAE, ascending: the best of every list in turn.

    The lists are, for each concept, the latents by discovery AUROC, by verdict and AUROC, by energy
    lift and by size of the effect on the logit. Half of the places that are left go to live latents
    at equal steps of density.

    Parameters
    ----------
    latents, verdicts, alignment, effects
        Rows of one SAE. `effects` is empty if the layer has none.
    """
    lists: list[list[int]] = []
    for concept, rows in latents.groupby("concept", sort=True):
        ranked = rows.dropna(subset=["rank_auroc"]).sort_values("rank_auroc")
        lists.append(ranked["latent"].tolist())
        for table, column in ((verdicts, "rank_auroc"), (effects, "rank_causal")):
            if len(table):
                mine = table[table["concept"] == concept].dropna(subset=["latent", column])
                lists.append(mine.sort_values([column, "latent"])["latent"].tolist())
        if len(alignment):
            mine = alignment[(alignment["concept"] == concept)].dropna(
                subset=["latent", "energy_lift"]
            )
            order = mine.sort_values(["energy_lift", "latent"], ascending=[False, True])
            lists.append(order["latent"].tolist())
    turns = chain.from_iterable(zip_longest(*lists))
    best = list(dict.fromkeys(int(latent) for latent in turns if latent is not None))
    density = latents.drop_duplicates("latent").set_index("latent")["firing_rate"]
    live = density[density > 0].sort_values(kind="stable").index.to_numpy()
    sampled = live[np.linspace(0, len(live) - 1, min(len(live), max(1, count // 8))).astype(int)]
    kept = best[: max(1, count - len(sampled))] if len(best) + len(sampled) > count else best
    chosen = list(dict.fromkeys([*kept, *map(int, sampled)]))[:count]
    return np.array(sorted(chosen), dtype=np.int64)


@dataclass(frozen=True)
class Shown:
    """The images that show one latent: the kind of choice -> images."""

    concept: str
    groups: dict[str, list[Example]]


def main_concepts(rows: pd.DataFrame) -> dict[int, str]:
    """Return latent -> the concept that it ranks best for, given rows of the table `latents`.

    For a latent without a rank, this is the concept of its first row.
    """
    ranked = rows.dropna(subset=["rank_auroc"]).sort_values("rank_auroc", kind="stable")
    found: dict[int, str] = {}
    for part in (ranked, rows):
        for latent, concept in zip(part["latent"], part["concept"], strict=True):
            found.setdefault(int(latent), str(concept))
    return dict(sorted(found.items()))


def choose_images(
    scores: np.ndarray,
    truth: np.ndarray,
    patients: np.ndarray,
    count: int,
    positions: np.ndarray,
) -> dict[str, list[Example]]:
    """Return the images that show a latent, at most one per patient within a kind.

    Parameters
    ----------
    scores : [n]
        Activation of each image.
    truth : [n] bool
        Label of the latent's main concept.
    patients : [n]
    count
        Images of highest activation. Each other kind has half of this number.
    positions : [n]
        Positions to return for the images.

    Returns
    -------
    dict
        Images of highest activation; images at equal steps of rank among those in which the latent
        is active; *near misses*: positive images with the lowest activation; *false alarms*:
        negative images with the highest activation above 0.
    """
    few = max(1, count // 2)
    order = np.argsort(-scores, kind="stable")
    active = order[scores[order] > 0]

    def examples(chosen: Sequence[int] | np.ndarray) -> list[Example]:
        return [Example(int(positions[i]), bool(truth[i]), float(scores[i])) for i in chosen]

    steps = np.linspace(0, len(active) - 1, few + 2)[1:-1].round().astype(int)
    return {
        TOP: pick_examples(scores, truth, patients, count, positions).highest,
        QUANTILE: examples(active[np.unique(steps)]) if len(active) else [],
        MISS: examples(_one_each(order[::-1][truth[order[::-1]]], patients, few)),
        ALARM: examples(_one_each(active[~truth[active]], patients, few)),
    }


def _one_each(order: np.ndarray, patients: np.ndarray, count: int) -> list[int]:
    chosen: list[int] = []
    seen: set[object] = set()
    for i in order:
        if len(chosen) == count:
            break
        if patients[i] not in seen:
            seen.add(patients[i])
            chosen.append(int(i))
    return chosen
