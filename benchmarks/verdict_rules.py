"""Score other rules for the verdict on a finished run of the phantom.

    python benchmarks/verdict_rules.py [--results results/phantom]

Each rule uses columns of `tables/confounds` to decide whether a latent that is associated with the
concept is called for a confounder. The ground truth is that of `tables/truth`: the responses to
pairs of images. The script prints recall, precision and false positives for any planted confounder,
over all SAEs of the run. The table in docs/method.md ("Why condition 3 has two alternatives") is
its output. Conditions 2 and 3, and the letters z (latent), C (confounder) and Y (concept), are
those of "The verdict" on that page.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.analysis.settings import ConfoundSettings, TruthSettings
from mammo_sae.analysis.truth import ground_truth, summary
from mammo_sae.analysis.verdict import CONFOUNDED, UNRESOLVED, associated
from mammo_sae.stores.tables import read_table

SETTINGS = ConfoundSettings()


def main() -> None:
    """Print one row per rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results/phantom"))
    parser.add_argument("--component", default="mass", help="the finding that is the concept")
    arguments = parser.parse_args()
    confounds = read_table(arguments.results / "tables" / "confounds.parquet")
    responses = read_table(arguments.results / "tables" / "responses.parquet")
    # The responses of control dictionaries are not measured.
    confounds = confounds[confounds["sae"].isin(responses["sae"])]
    print("| rule | recall | precision | false positives |\n|---|---|---|---|")
    for name, rule in RULES.items():
        found = _scored(confounds, responses, rule, arguments.component)
        cells = [f"{hits} of {latents}" for hits, latents in found]
        print(f"| {name} | {' | '.join(cells)} |")


def _scored(
    confounds: pd.DataFrame,
    responses: pd.DataFrame,
    rule: Callable[[pd.DataFrame], pd.Series],
    component: str,
) -> list[tuple[int, int]]:
    """Return (hits, latents) of recall, of precision and of false positives, over all SAEs."""
    is_associated = confounds.index.isin(associated(confounds).index)
    called = rule(confounds) & is_associated
    verdict = np.where(called, CONFOUNDED, np.where(is_associated, UNRESOLVED, "not associated"))
    table = confounds.assign(verdict=verdict)
    keys = ["encoder", "layer", "sae", "seed"]
    parts = []
    for key, rows in table.groupby(keys):
        own = responses[(responses[keys] == list(key)).all(axis=1)]
        parts.append(summary(TruthSettings(), ground_truth(TruthSettings(), own, rows, component)))
    scores = pd.concat(parts)
    scores = scores[scores["confounder"] == "any"].groupby("measure")[["hits", "latents"]].sum()
    wanted = scores.loc[["recall", "precision", "false_positive_rate"]]
    return list(wanted.itertuples(index=False, name=None))


def _dependent(rows: pd.DataFrame) -> pd.Series:
    """Return condition 2 of the verdict, which the step `confounds` has decided."""
    return rows["discriminates"].astype(bool)


def _goes(rows: pd.DataFrame) -> pd.Series:
    """Return per row whether C is associated with Y (a part of condition 3)."""
    return rows["association_p"] < SETTINGS.alpha


def _shrinks(rows: pd.DataFrame) -> pd.Series:
    """Return per row whether less than `min_kept` of the crude excess remains (shrinkage)."""
    return rows["kept"] < SETTINGS.min_kept


def _dominates(rows: pd.DataFrame) -> pd.Series:
    """Return per row whether z discriminates C better than it discriminates Y (dominance)."""
    sign = np.sign(rows["concept_auroc"] - 0.5).replace(0, 1)
    within = sign * (rows["stratified_auroc"] - 0.5)
    return (rows["conditional_auroc"] - 0.5).abs() > within


RULES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "only dependence (2)": _dependent,
    "2, and C is associated with Y": lambda rows: _dependent(rows) & _goes(rows),
    "stratified AUROC within 0.06 of 0.5": lambda rows: (
        (rows["stratified_auroc"] - 0.5).abs() < 0.06
    ),
    "2, association of C and Y, and shrinkage": lambda r: _dependent(r) & _goes(r) & _shrinks(r),
    "2, association of C and Y, and dominance": lambda r: _dependent(r) & _goes(r) & _dominates(r),
    "2, association of C and Y, and either (the rule)": lambda r: (
        _dependent(r) & _goes(r) & (_shrinks(r) | _dominates(r))
    ),
}


if __name__ == "__main__":
    main()
