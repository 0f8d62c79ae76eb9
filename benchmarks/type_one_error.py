"""Measure how often each p-value of the analyses is below 0.05 under the null hypothesis.

The script simulates cohorts in which the null hypothesis of a test holds, although scores, labels,
confounders and masks all depend on the patient. The table gives the share of cohorts with p < 0.05
in percent, and its 95 % interval (Clopper-Pearson over cohorts). The last row is over all cohorts.

    python benchmarks/type_one_error.py [--cohorts 200] [--draws 99]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from mammo_sae.analysis import exchange as ex
from mammo_sae.analysis.map_scores import Lesions, MapScores
from mammo_sae.analysis.settings import ResamplingSettings

PATIENTS = {
    0.02: 600,
    0.1: 150,
    0.5: 40,
}  # prevalence -> number of patients, with at least 12 positive ones
IMAGES = ("1", "4", "12", "1-12", "positives have more")
TESTS = (
    "association",
    "association, mostly 0",
    "confounder of patients",
    "confounder of breasts",
    "view",
    "alignment",
)
GRID = 4  # rows and columns of an activation map


@dataclass(frozen=True)
class Cohort:
    """Images [n] of a simulated cohort, and the maps of positive images."""

    patient: np.ndarray
    side: np.ndarray
    view: np.ndarray
    label: np.ndarray


def draw_cohort(rng: np.random.Generator, images: str, prevalence: float) -> Cohort:
    """Return a cohort whose positive patients have the finding in one imaged breast."""
    people = PATIENTS[prevalence]
    positive = rng.permutation(people) < round(prevalence * people)
    if images == "1-12":
        count = rng.integers(1, 13, people)
    elif images == "positives have more":
        count = np.where(positive, rng.integers(4, 13, people), rng.integers(1, 5, people))
    else:
        count = np.full(people, int(images))
    patient = np.repeat(np.arange(people), count)
    number = np.arange(len(patient)) - np.repeat(np.cumsum(count) - count, count)
    # Images are in the order left CC, left MLO, right CC, right MLO, and so on. Some patients begin
    # with the right side.
    side = (number // 2 + rng.integers(2, size=people)[patient]) % 2
    # The finding is in the breast of the patient's first image.
    label = positive[patient] & (side == side[np.cumsum(count) - count][patient])
    return Cohort(patient, side, number % 2, label)


def draw_scores(rng: np.random.Generator, cohort: Cohort) -> np.ndarray:
    """Return [n] scores: half of the variance is between patients, a quarter between breasts."""
    people = cohort.patient.max() + 1
    breast = 2 * cohort.patient + cohort.side
    return (
        rng.normal(size=people)[cohort.patient] * np.sqrt(0.5)
        + rng.normal(size=2 * people)[breast] * np.sqrt(0.25)
        + rng.normal(size=len(cohort.patient)) * np.sqrt(0.25)
    )


def p_values(rng: np.random.Generator, cohort: Cohort, draws: int, seed: int) -> dict[str, float]:
    """Return the p-value of every test of `TESTS`, each of a true null hypothesis."""
    common = {"draws": draws, "seed": seed, "breasts": cohort.side}
    score = draw_scores(rng, cohort)
    both = np.stack([score, np.maximum(score - 1, 0)], axis=1)
    result = dict(
        zip(
            TESTS[:2],
            ex.patient_permutation_p(both, cohort.label, cohort.patient, **common),
            strict=True,
        )
    )
    # The score and the confounder are associated with the label, and independent given the label.
    score = score + 0.8 * cohort.label
    people = cohort.patient.max() + 1
    ill = np.zeros(people, bool)
    ill[cohort.patient[cohort.label]] = True
    chance = np.where(ill, 0.6, 0.3)
    of_patient = (rng.random(people) < chance)[cohort.patient]
    breast = 2 * cohort.patient + cohort.side
    of_breast = rng.random(2 * people)[breast] < np.where(cohort.label, 0.6, 0.3)
    for name, covariate in zip(TESTS[2:5], (of_patient, of_breast, cohort.view), strict=True):
        if len(np.unique(covariate)) == 2:
            result[name] = ex.patient_permutation_p(
                score, covariate, cohort.patient, within=cohort.label, **common
            )
    result["alignment"] = alignment_p(rng, cohort, draws, seed)
    return result


def alignment_p(rng: np.random.Generator, cohort: Cohort, draws: int, seed: int) -> float:
    """Return p of the energy lift if lesions and activations have independent positions."""
    here = np.flatnonzero(cohort.label)
    patient, n = cohort.patient[here], len(here)
    people = int(patient.max()) + 1
    cells = np.arange(GRID * GRID)
    # A lesion has about the same position in all images of a patient, and so has the activation.
    place = rng.integers(GRID * GRID, size=people)[patient]
    place = np.where(rng.random(n) < 0.3, rng.integers(GRID * GRID, size=n), place)
    mask = (cells == place[:, None]).reshape(n, GRID, GRID).astype(np.float32)
    habit = rng.normal(size=(people, GRID * GRID))[patient]
    maps = np.maximum(habit + rng.normal(size=(n, GRID * GRID)), 0).reshape(n, GRID, GRID)
    settings = ResamplingSettings(seed=seed, bootstrap_draws=20, permutation_draws=draws)
    scores = MapScores(settings, Lesions(mask), patient, cohort.view[here], np.ones(1), 1.0)
    for image, values in enumerate(maps.reshape(n, -1)):
        active = np.flatnonzero(values)
        scores.add(image, np.zeros_like(active), active, values[active], np.ones(GRID * GRID))
    return scores.rows()[0]["p"]


def drawn_p(images: str, prevalence: float, cohorts: int, draws: int) -> list[dict[str, float]]:
    """Return the p-values of every cohort."""
    rng = np.random.default_rng([IMAGES.index(images), round(100 * prevalence)])
    result = []
    for seed in range(cohorts):
        result.append(p_values(rng, draw_cohort(rng, images, prevalence), draws, seed))
    return result


def rates(found: list[dict[str, float]]) -> list[str]:
    """Return, per test, the share of cohorts with p < 0.05 in percent, with its interval."""
    cells = []
    for test in TESTS:
        p = np.array([one[test] for one in found if test in one])
        if not len(p):
            cells.append("")
            continue
        share = binomtest(int((p < 0.05).sum()), len(p))
        low, high = share.proportion_ci()
        cells.append(f"{100 * share.statistic:.1f} ({100 * low:.1f}-{100 * high:.1f})")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--draws", type=int, default=99)
    arguments = parser.parse_args()
    print("| images a patient | prevalence |", " | ".join(TESTS), "|")
    print("|---" * (2 + len(TESTS)) + "|")
    every = []
    for images in IMAGES:
        for prevalence in PATIENTS:
            found = drawn_p(images, prevalence, arguments.cohorts, arguments.draws)
            every += found
            print("|", " | ".join([images, str(prevalence), *rates(found)]), "|", flush=True)
    print("|", " | ".join(["all", "", *rates(every)]), "|")


if __name__ == "__main__":
    main()
