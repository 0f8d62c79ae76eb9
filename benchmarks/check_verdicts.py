"""Score the verdicts on phantoms whose causes are known: `make truth`.

    python benchmarks/check_verdicts.py [--seeds 11 12 13] [--encoders pretrained finetuned]
        [--layers blocks.10 blocks.14 head] [--only SCENARIO ...] [--keep DIR] [--cores 2]

For each seed, the real workflow makes a *pool*: a phantom cohort with its embeddings, SAEs and
codes, and with the codes of its pairs of images. All seven artefacts of a pool are independent of
the mass. The settings of the verdicts were chosen on the demo. The demo has another seed and only
three of the artefacts.

A *scenario* draws a cohort from each pool. It draws patients without replacement so that one
artefact has a given odds ratio with the mass. Among patients with the same mass and artefact
status, nothing depends on the odds ratio. The drawn cohort is therefore distributed like a phantom
that was planned with this odds ratio. All scenarios of a pool use the same images and SAEs and
differ in the patients or views that are used. The steps `latents` and `confounds` then run on the
drawn cohort, and the step `truth` compares the verdicts with the responses to the pairs.

For each scenario the script prints

- recall, precision and false positives (docs/method.md, "Truth");
- how many associated latents, and how many other latents, have a verdict against them;
- how often p is small for an artefact to which a latent does not respond;
- for a split with other patients, how the AUROC of the latents changes there. The association is
  reversed in one scenario. It is repeated in another, which shows the change by chance.

It writes all rows to `verdicts_scored.csv`, and ends with status 1 if a goal of `GOALS` is missed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from threadpoolctl import threadpool_limits

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis import confounds as confounds_step
from mammo_sae.analysis import latents as latents_step
from mammo_sae.analysis import truth as truth_step
from mammo_sae.analysis.responses import latent_responses
from mammo_sae.analysis.settings import (
    BootstrapSettings,
    ConfoundSettings,
    LatentSettings,
    TruthSettings,
)
from mammo_sae.analysis.verdict import ALIGNED, CONFOUNDED, SUSPECT, associated
from mammo_sae.demo import DEMO
from mammo_sae.phantom.plan import conditional_probabilities
from mammo_sae.phantom.settings import ARTEFACTS
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table, write_table

PROJECT = Path(__file__).parents[1]
CONCEPT = "mass"
# Artefact -> the column of the cohort that shows it.
COLUMNS = {name: "manufacturer" if name == "vendor" else name for name in ARTEFACTS}
# Patients in each part of a pool, and in each split that a scenario draws from the pool's parts
# `training` and `test`.
POOL = {"training": 700, "test": 450, "external": 2, "pairs": 30}
DRAWN = {"training": 400, "test": 200, "external": 150}
RATE = 0.5
SHARDS = range(2)


@dataclass(frozen=True)
class Scenario:
    """How to draw a cohort from a pool.

    Attributes
    ----------
    name
        The scenario's name in the output.
    artefact
        The artefact that is associated with the mass; None: all are independent.
    odds_ratio
        The odds ratio over patients, in the splits training and test.
    external
        The odds ratio in the split external; None: no such split is drawn.
    single
        Of these shares of the patients without a mass, and with a mass, only one view is used.
    test
        Number of patients drawn for the split test. With an odds ratio of 20 the smallest of the
        four groups has one patient in twenty, and a verdict needs ten.
    """

    name: str
    artefact: str | None = None
    odds_ratio: float = 1.0
    external: float | None = None
    single: tuple[float, float] = (0.0, 0.0)
    test: int = DRAWN["test"]


SCENARIOS = (
    Scenario("null"),
    Scenario("null, unequal images", single=(0.8, 0.2)),
    *(Scenario(f"marker {odds:g}", "marker", odds) for odds in (2.0, 5.0)),
    Scenario("marker 20", "marker", 20.0, test=250),
    Scenario("vendor 5", "vendor", 5.0),
    Scenario("vendor 20", "vendor", 20.0, test=250),
    *(
        Scenario(f"{name} 5", name, 5.0)
        for name in ("paddle", "skin_fold", "wire", "dead_column", "implant")
    ),
    Scenario("marker 5, unequal images", "marker", 5.0, single=(0.8, 0.2)),
    Scenario("marker 8, reversed", "marker", 8.0, external=1 / 8),
    Scenario("marker 8, repeated", "marker", 8.0, external=8.0),
)


@dataclass(frozen=True)
class Evaluated:
    """One SAE in one scenario: the pool with its files, the pool's seed, and the SAE's identity."""

    pool: Path
    seed: int
    identity: case.Identity
    scenario: Scenario

    @property
    def codes(self) -> Path:
        """The manifest of the SAE's codes of the pool's images."""
        here = self.identity
        return self.pool / "codes" / here.encoder / here.layer / here.sae / f"seed{here.seed}.json"


def main() -> None:
    """Make the pools, score every scenario, print the shares, and compare them with the goals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=(11, 12, 13))
    parser.add_argument("--encoders", nargs="+", default=("pretrained", "finetuned"))
    parser.add_argument("--layers", nargs="+", default=("blocks.10", "blocks.14", "head"))
    parser.add_argument("--only", nargs="+", help="names of the scenarios to score")
    parser.add_argument("--keep", type=Path, help="keep pools and scores in this folder")
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    wanted = [s for s in SCENARIOS if not arguments.only or s.name in arguments.only]
    if not wanted:
        parser.error(f"--only: name some of {[s.name for s in SCENARIOS]}")
    folder = (arguments.keep or Path(tempfile.mkdtemp())).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        parts = []
        for seed in arguments.seeds:
            pool = make_pool(folder, seed, arguments.encoders, arguments.layers, arguments.cores)
            todo = [
                Evaluated(pool, seed, case.Identity(encoder, layer, "topk", 0), scenario)
                for encoder in arguments.encoders
                for layer in arguments.layers
                for scenario in wanted
            ]
            # A worker uses one thread. Threads of several workers would wait for each other.
            with ProcessPoolExecutor(
                arguments.cores, initializer=threadpool_limits, initargs=(1,)
            ) as workers:
                for number, rows in enumerate(workers.map(scored, todo), 1):
                    parts.append(rows)
                    print(f"\rseed {seed}: {number} of {len(todo)}", end="", file=sys.stderr)
            print(file=sys.stderr)
        table = pd.concat(parts, ignore_index=True)
        table.to_csv(folder / "verdicts_scored.csv", index=False)
        sys.exit(report(table))
    finally:
        if not arguments.keep:
            shutil.rmtree(folder)


def make_pool(
    folder: Path, seed: int, encoders: Sequence[str], layers: Sequence[str], cores: int
) -> Path:
    """Run the workflow up to the codes of a pool. Return the folder of its results."""
    name = f"pool{seed}"
    independent = {"odds_ratio": 1.0, "rate": RATE}
    covariates = {name: name for name in ARTEFACTS if name != "vendor"}
    chosen: dict[str, object] = {"pretrained": {"kind": "pretrained"}}
    if "finetuned" in encoders:
        chosen["finetuned"] = {"kind": "finetuned", "base": "pretrained", "freeze": "blocks.4"}
    overlay = {
        "name": name,
        "results": folder.as_posix(),
        "phantom": {
            "seed": seed,
            "patients": POOL,
            "confounders": dict.fromkeys(ARTEFACTS, independent),
        },
        "cohort": {"kind": "phantom", "covariates": covariates, "shards": len(SHARDS)},
        "saes": {"topk": DEMO["saes"]["topk"]},
        "encoders": chosen,
        "layers": list(layers),
        "truth": {"planted": {"marker": "marker"}},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    results = folder / name
    runs = [f"{encoder}/{layer}/topk/seed0" for encoder in encoders for layer in layers]
    targets = [results / "codes" / f"{run}{end}.json" for run in runs for end in ("", ".pairs")]
    targets += [results / "measurements" / f"{shard}.parquet" for shard in SHARDS]
    targets += [results / "cohort" / "images.parquet"]
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--quiet", "all", "--nolock", "--cores", str(cores),
         *map(str, targets), "--configfile", str(file)],
        cwd=PROJECT, check=True,
    )  # fmt: skip
    return results


def draw_cohort(images: pd.DataFrame, scenario: Scenario, seed: int) -> pd.DataFrame:
    """Return the image table of a scenario, with the drawn patients in its splits.

    The other patients are in the split `validation`, which no step here uses. A view that is not
    used has no label. The split `external` is drawn from the pool's test patients that are not in
    the split `test`.
    """
    rng = np.random.default_rng([seed, SCENARIOS.index(scenario)])
    patients = images.drop_duplicates("patient_id").set_index("patient_id")
    split = pd.Series("validation", index=patients.index)
    odds = scenario.odds_ratio
    draws = [
        ("training", "training", odds, DRAWN["training"]),
        ("test", "test", odds, scenario.test),
    ]
    if scenario.external is not None:
        draws.append(("external", "test", scenario.external, DRAWN["external"]))
    for name, source, odds_ratio, count in draws:
        free = patients[(patients["split"] == source) & (split == "validation")]
        split[_draw_patients(free, scenario.artefact, odds_ratio, count, rng)] = name
    table = images.assign(split=images["patient_id"].map(split))
    positive = patients[CONCEPT].to_numpy(dtype=bool)
    alone = rng.random(len(patients)) < np.where(positive, scenario.single[1], scenario.single[0])
    unused = np.where(rng.random(len(patients)) < 0.5, "CC", "MLO")
    left_out = pd.Series(np.where(alone, unused, ""), index=patients.index)
    used = table["view"].astype(str) != table["patient_id"].map(left_out)
    table[CONCEPT] = table[CONCEPT].astype("Int8").where(used)
    return table


def _draw_patients(
    free: pd.DataFrame,
    artefact: str | None,
    odds_ratio: float,
    count: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw `count` patients with an odds ratio between mass and artefact; return their ids.

    Mass and artefact, each present or absent, divide the patients into four groups. If one group
    has too few patients, fewer than `count` are drawn.
    """
    positive = free[CONCEPT].to_numpy(dtype=bool)
    if artefact is None or odds_ratio == 1:
        return rng.choice(free.index, count, replace=False)
    prevalence = positive.mean()
    present = _has(free, artefact)
    given = conditional_probabilities(prevalence, RATE, odds_ratio)
    groups = []
    for has_mass, share in ((False, 1 - prevalence), (True, prevalence)):
        for has_artefact, part in ((False, 1 - given[has_mass]), (True, given[has_mass])):
            group = free.index[(positive == has_mass) & (present == has_artefact)]
            groups.append((group, share * part))
    count = min(count, *(len(group) / share for group, share in groups))
    drawn = [rng.choice(group, int(count * share), replace=False) for group, share in groups]
    return np.concatenate(drawn)


def _has(patients: pd.DataFrame, artefact: str) -> np.ndarray:
    column = patients[COLUMNS[artefact]].astype(str)
    if artefact == "vendor":
        return (column == "Brightwater Medical").to_numpy()
    return (column == "1").to_numpy()


def scored(one: Evaluated) -> pd.DataFrame:
    """Run the analyses of one SAE on one scenario. Return a row per measure: hits and latents."""
    images = draw_cohort(read_table(one.pool / "cohort" / "images.parquet"), one.scenario, one.seed)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        here = Path(folder)
        write_table(images, here / "images.parquet")
        common = {"identity": one.identity, "images": here / "images.parquet", "codes": one.codes}
        latents_step.run(
            LatentSettings(), **common, concepts=[CONCEPT], output=here / "latents.parquet"
        )
        confounds_step.run(
            ConfoundSettings(
                acquisition=tuple(COLUMNS.values()),
                anatomical=("density", "view", "side", "age_bin"),
            ),
            **common,
            image_stores=[one.pool / "images" / f"{shard}.json" for shard in SHARDS],
            measurements=[one.pool / "measurements" / f"{shard}.parquet" for shard in SHARDS],
            latents=here / "latents.parquet",
            concepts=[CONCEPT],
            output=here / "confounds.parquet",
        )
        verdicts = read_table(here / "confounds.parquet")
    found = _responses(one, np.unique(verdicts["latent"]))
    rows = [*_truth_rows(one, verdicts, found), *_null_rows(verdicts, found)]
    if one.scenario.external is not None:
        rows += _external_rows(one, images, verdicts)
    table = pd.DataFrame(rows, columns=["measure", "hits", "latents"])
    head = {
        "scenario": one.scenario.name, "seed": one.seed,
        "encoder": one.identity.encoder, "layer": one.identity.layer,
    }  # fmt: skip
    for place, (name, value) in enumerate(head.items()):
        table.insert(place, name, value)
    return table


def _responses(one: Evaluated, latents: np.ndarray) -> pd.DataFrame:
    """Return the latents' responses to the pool's pairs, computed as by the step `responses`."""
    codes = CodesReader(one.codes.with_suffix(".pairs.json"))
    pairs = read_table(one.pool / "pairs" / "pairs.parquet")
    return latent_responses(BootstrapSettings(), pairs, codes, LatentSettings().score, latents)


Rows = Iterator[tuple[str, int, int]]


def _truth_rows(one: Evaluated, verdicts: pd.DataFrame, found: pd.DataFrame) -> Rows:
    """Yield recall, precision and false positives for the scenario's artefact, if it has one."""
    planted = {COLUMNS[name]: name for name in ARTEFACTS if name == one.scenario.artefact}
    controls = {COLUMNS[name]: name for name in ARTEFACTS if name != one.scenario.artefact}
    if not planted:  # the settings need a planted artefact; its measures are not yielded
        planted = {COLUMNS["marker"]: "marker"}
        controls.pop("marker")
    settings = TruthSettings(planted=planted, controls=controls)
    truth = truth_step.ground_truth(settings, found, verdicts, CONCEPT)
    summary = truth_step.summary(settings, truth).set_index(["confounder", "measure"])
    if one.scenario.artefact is not None:
        for measure in ("recall", "precision", "false_positive_rate"):
            row = summary.loc[(next(iter(planted)), measure)]
            yield measure, int(row["hits"]), int(row["latents"])


def _null_rows(verdicts: pd.DataFrame, found: pd.DataFrame) -> Rows:
    """Yield how many latents have a verdict against them, and how often p is small.

    A verdict against a latent is confounded, mixed or anatomy, for any confounder. The values of p
    are those for artefacts whose response has an interval that contains 0.
    """
    judged = associated(verdicts)
    called = judged[judged["verdict"].isin(SUSPECT)]["latent"].nunique()
    yield "associated latents called", called, judged["latent"].nunique()
    others = verdicts[~verdicts["latent"].isin(judged["latent"])]
    yield "other latents called", int(others["verdict"].isin(SUSPECT).sum()), len(others)
    silent = found[(found["response_low"] <= 0) & (found["response_high"] >= 0)]
    keys = pd.MultiIndex.from_arrays([silent["latent"], silent["component"].map(COLUMNS)])
    p = verdicts.set_index(["latent", "confounder"])["p"]
    p = p[p.index.isin(keys)].dropna()
    for level in (0.05, 0.01):
        yield f"p below {level} without a response", int((p < level).sum()), len(p)


def _external_rows(one: Evaluated, images: pd.DataFrame, verdicts: pd.DataFrame) -> Rows:
    """Yield how many latents keep or lose AUROC in the split external.

    The latents are those with the verdict concept-aligned or confounded for the artefact.
    """
    reader = CodesReader(one.codes)
    cases = images.set_index("image_id").loc[reader.image_ids].reset_index()
    scores = reader.pooled(LatentSettings().score)
    column = COLUMNS[one.scenario.artefact or ""]
    mine = associated(verdicts[verdicts["confounder"] == column])
    auroc = {}
    for split in ("test", "external"):
        known = case.labelled(cases, CONCEPT, split)
        labels = case.labels(cases, CONCEPT, known)
        auroc[split] = st.auroc(scores[np.ix_(known, mine["latent"].to_numpy())], labels)
    sign = np.where(mine["concept_auroc"] > 0.5, 1, -1)
    change = (auroc["external"] - auroc["test"]) * sign
    aligned = (mine["verdict"] == ALIGNED).to_numpy()
    confounded = (mine["verdict"] == CONFOUNDED).to_numpy()
    yield "aligned: AUROC within 0.05", int((np.abs(change[aligned]) <= 0.05).sum()), aligned.sum()
    yield "aligned: AUROC falls by 0.05", int((change[aligned] < -0.05).sum()), aligned.sum()
    fell = int((change[confounded] < -0.05).sum())
    yield "confounded: AUROC falls by 0.05", fell, confounded.sum()


# Scenarios with a strong association, and without any association.
STRONG = [s.name for s in SCENARIOS if s.odds_ratio >= 5]
NULL = [s.name for s in SCENARIOS if s.artefact is None]
# Measure -> the scenarios with a goal for it, the limit of its share, and whether the share must be
# at least (True) or at most (False) the limit.
GOALS: Mapping[str, tuple[Sequence[str], float, bool]] = {
    "recall": (STRONG, 0.9, True),
    "precision": (STRONG, 0.9, True),
    "associated latents called": (NULL, 0.05, False),
    "other latents called": ([s.name for s in SCENARIOS], 0.0, False),
}


def report(table: pd.DataFrame) -> int:
    """Print the shares by scenario, then the goals missed at some layer. Return the exit status."""
    order = list(dict.fromkeys(table["scenario"]))
    whole = table.groupby(["scenario", "measure"], sort=False)[["hits", "latents"]].sum()
    for scenario in order:
        shares = [f"{m}: {_share(*row)}" for m, row in whole.loc[scenario].iterrows()]
        print(f"{scenario}\n  " + "\n  ".join(shares))
    missed = []
    by_layer = table.groupby(["measure", "scenario", "encoder", "layer"], sort=False)
    for key, row in by_layer[["hits", "latents"]].sum().iterrows():
        measure, scenario, encoder, layer = key
        scenarios, limit, above = GOALS.get(measure, ((), 0.0, True))
        share = row["hits"] / row["latents"] if row["latents"] else np.nan
        if scenario in scenarios and (share < limit if above else share > limit):
            shown = _share(row["hits"], row["latents"])
            missed.append(f"{scenario}, {encoder}, {layer}: {measure} {shown}")
    print("\nGoals missed:" if missed else "\nAll goals are met.")
    print("\n".join(missed))
    return bool(missed)


def _share(hits: int, latents: int) -> str:
    return f"{hits} of {latents}" + (f" ({hits / latents:.2f})" if latents else "")


if __name__ == "__main__":
    main()
