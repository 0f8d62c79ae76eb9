"""Step: judge latents again on the patients of other splits, such as the external one.

The latents are those that are associated with a concept on the confirmation split. On another split
each gets its AUROC for the concept with p and q, as in the step `latents`, and the measures for
every confounder, as in the step `confounds`. The same rule turns them into a verdict
(`mammo_sae.analysis.verdict`). The families of the q-values hold the judged latents alone, because
no other latent is tested again.

A verdict is *repeated* if the other split gives the same verdict, with an association in the same
direction. The verdicts of a split are only as similar as its confounding: a latent that is
confounded with a marker has no association where markers are independent of the concept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_sae.analysis import cases as case
from mammo_sae.analysis.agreement import kept_verdicts
from mammo_sae.analysis.candidates import read_candidates
from mammo_sae.analysis.confounds import confounder_rows, judged
from mammo_sae.analysis.latents import confirm
from mammo_sae.analysis.verdict import INSUFFICIENT, UNASSOCIATED, associated, overall
from mammo_sae.cohorts.regions import concept_regions
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.tables import read_table, write_table

if TYPE_CHECKING:
    from mammo_sae.analysis.settings import ConfoundSettings, JudgementSettings

OPPOSITE = "opposite direction"
_MEASURED = ("auroc", "auroc_low", "auroc_high", "p", "q")
# Columns of the table `replication` and their types.
_COLUMNS = {
    "concept": "object",
    "split": "object",
    "latent": "int64",
    "verdict": "object",
    "confounders": "object",
    "auroc": "float64",
    **{f"split_{name}": "float64" for name in _MEASURED},
    "split_verdict": "object",
    "split_confounders": "object",
    "repeated": "boolean",
    "reason": "object",
}


def run(
    settings: JudgementSettings,
    *,
    identity: case.Identity,
    images: Path,
    image_stores: Sequence[Path],
    codes: Path,
    confounds: Path,
    concepts: Sequence[str],
    measurements: Sequence[Path],
    replication: Path,
    verdict_replication: Path,
) -> list[Path]:
    """Judge the latents that are associated with a concept again, on other splits.

    Parameters
    ----------
    images
        Image table.
    image_stores
        Manifests of the canonical images, all shards.
    codes
        Manifest of the SAE's codes.
    confounds
        Table of the same SAE, written by the step `confounds`.
    concepts
        Columns of the image table.
    measurements
        Tables of the step `measurements`, all shards.
    replication
        Table to write (.parquet): a row per latent, concept and split.
    verdict_replication
        Table to write (.parquet): a row per verdict, concept and split.
    """
    reader = CodesReader(codes)
    store = ImageReader(image_stores, concept_regions(images))
    cases, _ = read_candidates(images, reader.image_ids, store, concepts, measurements)
    tested = associated(read_table(confounds))
    kinds = tested.drop_duplicates("confounder").set_index("confounder")["kind"]
    conditions = settings.confounds.model_copy(
        update={
            "acquisition": tuple(kinds.index[kinds == "acquisition"]),
            "anatomical": tuple(kinds.index[kinds != "acquisition"]),
        }
    )
    verdicts = overall(tested)
    members, shares = [], []
    for concept in concepts:
        mine = verdicts[verdicts["concept"] == concept].sort_values("latent", ignore_index=True)
        for split in settings.splits:
            part = pd.DataFrame({name: [] for name in _COLUMNS}).astype(_COLUMNS)
            if len(mine):
                here = conditions.model_copy(update={"confirmation": split})
                part = _judged_again(settings, here, reader, cases, mine)
            members.append(part)
            share = share_of(part)
            share.insert(0, "concept", concept)
            share.insert(1, "split", split)
            shares.append(share)
    for path, parts in ((replication, members), (verdict_replication, shares)):
        filled = [part for part in parts if len(part)] or parts[:1]
        write_table(identity.label(pd.concat(filled, ignore_index=True)), path)
    return [replication, verdict_replication]


def _judged_again(
    settings: JudgementSettings,
    conditions: ConfoundSettings,
    reader: CodesReader,
    cases: pd.DataFrame,
    mine: pd.DataFrame,
) -> pd.DataFrame:
    """Return the rows of one concept and split.

    Parameters
    ----------
    conditions
        The settings of the step `confounds`, with the split as confirmation split and the
        confounders that it tested.
    mine
        One row per judged latent of the concept, as `mammo_sae.analysis.verdict.overall` returns.
    """
    concept, split = mine["concept"].iloc[0], conditions.confirmation
    latents = mine["latent"].to_numpy(dtype=np.int64)
    here = np.flatnonzero((cases["split"] == split).to_numpy())
    cases = cases.iloc[here].reset_index(drop=True)
    ids = cases["image_id"].tolist()
    scores = reader.pooled(settings.latents.score, ids, latents)
    table = pd.DataFrame({"latent": latents, "concept": concept, "reason": ""})
    latent_settings = settings.latents.model_copy(update={"confirmation": split})
    units, unit_scores = cases, scores
    if latent_settings.unit != "image" and len(here):
        member, units = case.units(cases, latent_settings.unit, [concept])
        unit_scores = case.pool(scores, member, latent_settings.aggregate)
    confirm(latent_settings, units, unit_scores, concept, table)
    parts = []
    for confounder in (*(conditions.acquisition or ()), *(conditions.anatomical or ())):
        part = confounder_rows(conditions, cases, scores, concept, confounder)
        part.insert(0, "latent", latents)
        # Only the wording of a reason depends on where a latent fires, and that is not repeated.
        part[["concept_lift", "artefact_lift", "artefact_lift_low"]] = np.nan
        parts.append(part)
    rows = judged(conditions, pd.concat(parts, ignore_index=True), table)
    for name in case.IDENTITY:
        rows[name] = mine[name].iloc[0]
    again = overall(rows).set_index("latent").loc[latents]
    measured = table.set_index("latent").loc[latents]
    result = pd.DataFrame(
        {
            "concept": concept,
            "split": split,
            "latent": latents,
            "verdict": mine["verdict"].to_numpy(),
            "confounders": mine["confounders"].to_numpy(),
            "auroc": mine["concept_auroc"].to_numpy(),
            **{f"split_{name}": measured[name].to_numpy() for name in _MEASURED},
            "split_verdict": again["verdict"].to_numpy(),
            "split_confounders": again["confounders"].to_numpy(),
            "reason": again["reason"].to_numpy(),
        }
    )
    result.loc[result["split_verdict"] == UNASSOCIATED, "split_confounders"] = ""
    found = comparable(result)
    result["repeated"] = (found == result["verdict"]).astype("boolean").mask(found.isna())
    return result[[*_COLUMNS]].astype(_COLUMNS)


def comparable(table: pd.DataFrame) -> pd.Series:
    """Return the verdict of each row's split with which the first verdict is compared.

    It is missing if either verdict is ``insufficient``, and ``opposite direction`` if the AUROCs
    lie on different sides of 0.5.
    """
    turned = (table["auroc"] - 0.5) * (table["split_auroc"] - 0.5) < 0
    found = table["split_verdict"].astype(object)
    found = found.mask(turned & (found != UNASSOCIATED), OPPOSITE)
    few = (table["split_verdict"] == INSUFFICIENT) | (table["verdict"] == INSUFFICIENT)
    return found.mask(few, None)


def share_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return how many verdicts of one concept and split are repeated, one row per verdict."""
    result = kept_verdicts(table["verdict"], comparable(table))
    result["reason"] = np.where(result["tested"] > 0, "", "no latent was judged on both splits")
    return result
