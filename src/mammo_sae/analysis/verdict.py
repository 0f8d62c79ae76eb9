"""The rule that turns a latent's numbers for a concept and a confounder into a verdict.

A latent without an association with the concept in the confirmation split is ``not associated``:
without an association, nothing can be confounded. Another latent *discriminates the concept* if the
interval of its stratified AUROC lies more than `min_concept_excess` beyond 0.5 in the direction of
the association. It *discriminates the confounder* if q < `alpha` and its conditional AUROC differs
from 0.5 by at least `min_confounder_excess`.

A latent is *suspect* if three things hold:

- it discriminates the confounder;
- the confounder is associated with the concept (`association_p` < `alpha`);
- its stratified AUROC keeps less than `min_kept` of the crude AUROC's excess over 0.5; or, in place
  of this, its conditional AUROC is farther from 0.5 than its stratified AUROC. The distance of the
  stratified AUROC is counted in the direction of the association.

=================== ======================================== ====================
..                  discriminates the concept                does not
=================== ======================================== ====================
suspect             ``mixed``                                ``confounded``, or ``anatomy`` where
                                                             the confounder is tissue, pose or age
not suspect         ``concept-aligned``                      ``unresolved``
=================== ======================================== ====================

``insufficient``: too few patients for the concept, or within levels of the confounder. If this is
so because a confounder of the acquisition almost coincides with the concept, the verdict is
``unresolved``: nothing shows which of the two the latent discriminates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mammo_sae.analysis.cases import IDENTITY

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import ConfoundSettings


CONFOUNDED, MIXED, ANATOMY = "confounded", "mixed", "anatomy"
UNRESOLVED, ALIGNED = "unresolved", "concept-aligned"
INSUFFICIENT, UNASSOCIATED = "insufficient", "not associated"
# The most severe verdict comes first.
SEVERITY = (CONFOUNDED, MIXED, ANATOMY, UNRESOLVED, ALIGNED, INSUFFICIENT, UNASSOCIATED)
# The parts of a prediction that have no verdict.
UNTESTED, SAE_ERROR = "not tested", "SAE error"
JUDGED = SEVERITY[:-1]  # the verdicts of associated latents
SUSPECT = (CONFOUNDED, MIXED, ANATOMY)
MEANING = {
    CONFOUNDED: "really an artefact or the scanner",
    MIXED: "the finding, and something else",
    ANATOMY: "really tissue, view or age",
    UNRESOLVED: "finding and confounder can't be separated",
    ALIGNED: "the finding itself",
    INSUFFICIENT: "too few patients",
    UNASSOCIATED: "no association with the finding",
}


def associated(rows: pd.DataFrame) -> pd.DataFrame:
    """Return those rows of a table of verdicts whose latent is associated with the concept."""
    return rows[rows["concept_auroc"].notna() & (rows["verdict"] != UNASSOCIATED)]


def overall(confounds: pd.DataFrame) -> pd.DataFrame:
    """Return one row per SAE, concept and latent: the most severe verdict and its confounders.

    A latent is confounded if any confounder explains it, whatever its verdicts for the others. It
    is insufficient only if no confounder could be tested. A latent that is not associated with the
    concept has that verdict for every confounder.

    The columns are encoder, layer, sae, seed, concept, latent, concept_auroc, verdict and:

    - ``confounders``: names with this verdict, joined by commas;
    - ``reason``: the verdict's reason, for the listed confounder that is discriminated best;
    - ``discriminates``: the confounders that the latent discriminates with the concept held fixed,
      each with its AUROC, best first.
    """
    keys = [*IDENTITY, "concept", "latent"]
    rows = confounds.assign(
        severity=confounds["verdict"].map({word: i for i, word in enumerate(SEVERITY)}),
        size=confounds["effect"].abs().fillna(-1.0),
        measured=[
            f"{name} {auroc:.2f}"
            for name, auroc in zip(
                confounds["confounder"], confounds["conditional_auroc"], strict=True
            )
        ],
    ).sort_values([*keys, "size"], ascending=[True] * len(keys) + [False], kind="stable")
    measured = rows[rows["discriminates"].astype(bool)].groupby(keys)["measured"].agg(", ".join)
    severest = rows[rows["severity"] == rows.groupby(keys)["severity"].transform("min")]
    first = severest.drop_duplicates(keys)[[*keys, "concept_auroc", "verdict", "reason"]]
    names = severest.sort_values("confounder").groupby(keys)["confounder"].agg(", ".join)
    result = first.merge(names.rename("confounders").reset_index(), on=keys, validate="1:1")
    result = result.merge(measured.rename("discriminates").reset_index(), on=keys, how="left")
    return result.assign(discriminates=result["discriminates"].fillna(""))


def significance(name: str, value: float) -> str:
    """Return a p- or q-value with its name, such as "q 0.012"."""
    return f"{name} {probability(value)}"


def probability(value: float) -> str:
    """Return a p- or q-value as text, and never as 0."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def discriminates(settings: ConfoundSettings, row: dict[str, Any]) -> bool:
    """Return whether the latent discriminates the confounder among images alike in the concept."""
    excess = abs(row["conditional_auroc"] - 0.5)
    return bool(row["q"] < settings.alpha and excess >= settings.min_confounder_excess)


def verdict(settings: ConfoundSettings, row: dict[str, Any]) -> tuple[str, str]:
    """Return (verdict, reason in one sentence) of one row of the table of confounds."""
    concept, confounder = row["concept"], row["confounder"]
    if row["no_association"]:
        return INSUFFICIENT, f"whether it is associated with {concept} can't be estimated: " + str(
            row["no_association"]
        )
    seen = f"(AUROC {row['concept_auroc']:.2f}, {significance('q', row['concept_q'])})"
    if not row["concept_q"] < settings.alpha:
        return UNASSOCIATED, f"not associated with {concept} {seen}{_instead(settings, row)}"
    if row["inseparable"]:
        return UNRESOLVED, (
            f"{confounder} almost coincides with {concept} (Cramer's V {row['association']:.2f}, "
            f"{significance('p', row['association_p'])}) and can't be held fixed: {row['problem']}"
        )
    if row["problem"]:
        return INSUFFICIENT, row["problem"]
    sign = np.sign(row["concept_auroc"] - 0.5) or 1.0
    bound = row["stratified_auroc_low"] if sign > 0 else row["stratified_auroc_high"]
    within = sign * (row["stratified_auroc"] - 0.5)
    shows_concept = sign * (bound - 0.5) > settings.min_concept_excess
    shows_confounder = discriminates(settings, row)
    explained = row["kept"] < settings.min_kept
    dominated = abs(row["conditional_auroc"] - 0.5) > within
    numbers = (
        f"its AUROC for {concept} is {row['crude_auroc']:.2f}, among images alike in {confounder} "
        f"{row['stratified_auroc']:.2f}; its AUROC for {confounder} among images alike in "
        f"{concept} is {row['conditional_auroc']:.2f} ({significance('q', row['q'])})"
    )
    goes = row["association_p"] < settings.alpha
    if shows_confounder and goes and (explained or dominated):
        why = [f"under {settings.min_kept:.0%} of the association remains"] if explained else []
        why += [f"it discriminates {confounder} better than {concept}"] if dominated else []
        if row["artefact_lift_low"] > 1 and not row["artefact_lift"] <= row["concept_lift"]:
            why.append(f"it fires on the artefact ({row['artefact_lift']:.1f} times chance)")
        word = MIXED if shows_concept else CONFOUNDED
        if word == CONFOUNDED and row["kind"] == "anatomical":
            word = ANATOMY
        return word, f"{numbers}: {' and '.join(why)}"
    beside = f"{confounder} does not explain the association"
    if shows_confounder and not goes:
        beside = f"{confounder} is not associated with {concept} (p {row['association_p']:.2f})"
    if shows_concept:
        return ALIGNED, f"{numbers}: it discriminates {concept} at equal {confounder}, and {beside}"
    return (
        UNRESOLVED,
        f"{numbers}: at equal {confounder} it does not clearly discriminate {concept}, "
        f"but {beside}",
    )


def _instead(settings: ConfoundSettings, row: dict[str, Any]) -> str:
    """Return the end of an unassociated latent's reason: its association with the confounder."""
    if row["problem"]:
        return f", and {row['confounder']} can't be tested: {row['problem']}"
    q = significance("q", row["q"])
    measured = f"{row['confounder']} (AUROC {row['conditional_auroc']:.2f}, {q})"
    if discriminates(settings, row):
        return f"; it discriminates {measured}"
    return f", nor does it discriminate {measured}"
