"""Step: compare verdicts with the ground truth of a phantom.

A phantom's external split has the same artefacts as the other splits, but independent of every
concept. There, a latent that detects an artefact keeps its AUROC for the artefact and loses its
AUROC for the concept. A latent that detects the concept keeps the latter. This gives the ground
truth, from images that no verdict has used:

- *confounded by C*: external AUROC for C of at least `confounded_auroc`, in either direction;
- *clean*: external AUROC for the concept of at least `clean_auroc`, in the direction of the
  association, and confounded by no C.

The counts include only latents for which the confound table has a verdict: those that are
associated with the concept in the confirmation split, in either direction. A latent is *called* for
C if its verdict is confounded or mixed. Both mean that its association with the concept may come
from C.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from mammo_sae import statistics as st
from mammo_sae.analysis import cases as case
from mammo_sae.analysis.verdict import CONFOUNDED, MIXED, associated
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import TruthSettings

CALLED = (CONFOUNDED, MIXED)


def run(
    settings: TruthSettings,
    *,
    identity: case.Identity,
    images: Path,
    codes: Path,
    latents: Path,
    confounds: Path,
    output: Path,
) -> list[Path]:
    """Write one SAE's truth table: recall and false-positive rate, for each confounder and for any.

    Parameters
    ----------
    images
        Image table.
    codes
        Manifest of the SAE's codes.
    latents, confounds
        Tables of the same SAE, written by the steps `latents` and `confounds`.
    output
        Table to write (.parquet): recall and false-positive rate, for each confounder and for any.
    """
    reader = CodesReader(codes)
    cases = case.read_cases(images, reader.image_ids)
    table = read_table(latents)
    scores = reader.pooled(table["score"].iloc[0])
    truth = ground_truth(settings, cases, scores, read_table(confounds))
    write_table(identity.label(summary(settings, truth)), output)
    return [output]


def ground_truth(
    settings: TruthSettings,
    cases: pd.DataFrame,
    scores: np.ndarray,
    confounds: pd.DataFrame,
) -> pd.DataFrame:
    """Return one row per latent associated with the concept: external AUROCs, truth, calls.

    Columns: latent, auroc (concept), ``auroc_c`` and ``called_c`` for each confounder c, ``called``
    (for any confounder of the phantom), ``truth`` (the confounder of the phantom that it detects
    best, "clean" or "").
    """
    judged = associated(confounds[confounds["concept"] == settings.concept])
    found = judged.groupby("latent")["concept_auroc"].first().sort_index()
    chosen = found.index.to_numpy()
    result = pd.DataFrame({"latent": chosen})
    known = case.labelled(cases, settings.concept, settings.split)
    patients = cases["patient_id"].to_numpy()[known]
    labels = case.labels(cases, settings.concept, known)
    external = _external(scores, known, labels, patients, chosen)
    result["auroc"] = np.where(found > 0.5, external, 1 - external)
    for name in (*settings.planted, *settings.controls):
        result[f"auroc_{name}"] = np.nan
        if name in cases:
            result[f"auroc_{name}"] = _best_level(
                scores, cases[name].iloc[known], known, patients, chosen
            )
        verdicts = judged[judged["confounder"] == name].set_index("latent")["verdict"]
        result[f"called_{name}"] = verdicts.reindex(chosen).isin(CALLED).to_numpy()
    result["called"] = result[[f"called_{name}" for name in settings.planted]].any(axis=1)
    detected = result[[f"auroc_{name}" for name in settings.planted]].fillna(0.0).to_numpy()
    strongest = detected.argmax(axis=1) if len(result) else np.zeros(0, int)
    result["truth"] = np.where(result["auroc"] >= settings.clean_auroc, "clean", "")
    is_artefact = detected.max(axis=1, initial=0.0) >= settings.confounded_auroc
    result.loc[is_artefact, "truth"] = np.array(settings.planted)[strongest][is_artefact]
    return result


def _external(
    scores: np.ndarray,
    known: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    chosen: np.ndarray,
) -> np.ndarray:
    if st.why_not_estimable(labels, patients):
        return np.full(len(chosen), np.nan)
    return st.auroc(scores[np.ix_(known, chosen)], labels)


def _best_level(
    scores: np.ndarray,
    column: pd.Series,
    known: np.ndarray,
    patients: np.ndarray,
    chosen: np.ndarray,
) -> np.ndarray:
    """Return each latent's AUROC, at least 0.5, for the level of `column` it discriminates best."""
    here = column.notna().to_numpy()
    text = column[here].astype(str).to_numpy()
    best = np.full(len(chosen), np.nan)
    for level in np.unique(text):
        one = _external(scores, known[here], text == level, patients[here], chosen)
        best = np.fmax(best, np.maximum(one, 1 - one))
    return best


def summary(settings: TruthSettings, truth: pd.DataFrame) -> pd.DataFrame:
    """Return the table: for each confounder and measure the share called, its count and interval.

    ``recall`` is the share called for C among the latents confounded by C; for ``any``, called for
    any confounder of the phantom. ``false_positive_rate`` is the share called among clean latents.
    For a control, which explains no association, it is the share among all latents that do not
    detect the control. Intervals are Clopper-Pearson intervals over latents.
    """
    rows = []
    clean = truth["truth"] == "clean"
    for name in (*settings.planted, *settings.controls, "any"):
        role = "null" if name in settings.controls else "planted"
        called = truth["called"] if name == "any" else truth[f"called_{name}"]
        if role == "planted":
            mine = (truth["truth"] == name) if name != "any" else ~clean & (truth["truth"] != "")
            rows.append((name, role, "recall", *_share(called[mine], f"confounded by {name}")))
        innocent, group = clean, "clean"
        if role == "null":
            innocent = ~(truth[f"auroc_{name}"] >= settings.confounded_auroc)
            group = f"not a detector of {name}"
        rows.append((name, role, "false_positive_rate", *_share(called[innocent], group)))
    columns = ["confounder", "role", "measure", "latents", "called", "value", "low", "high"]
    result = pd.DataFrame(rows, columns=[*columns, "reason"])
    result.insert(0, "concept", settings.concept)
    result.insert(1, "ranked_latents", len(truth))
    return result


def _share(called: pd.Series, group: str) -> tuple[int, int, float, float, float, str]:
    n, k = len(called), int(called.sum())
    if not n:
        return 0, 0, np.nan, np.nan, np.nan, f"no associated latent is {group}"
    interval = binomtest(k, n).proportion_ci()
    return n, k, k / n, float(interval.low), float(interval.high), ""
