"""Confounder candidates: every column that says how an image was acquired, and varies.

They come from the image table (manufacturer, model, size and spacing of the original matrix, the
cohort's covariates, and whether a field is missing), and from what the conversion noted of each
file (`mammo_sae.stores.images`): transfer syntax, photometric interpretation, bits, VOI
transformation, and what triage found, such as an implant.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mammo_sae.analysis.columns import SAID, covariates_of
from mammo_sae.stores.images import IDENTITIES, ImageReader

OPTIONAL = ("density", "birads", "age_bin", *SAID)


def with_acquisition(
    cases: pd.DataFrame, store: ImageReader, concepts: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Add what the conversion noted and what is missing to `cases`.

    Returns
    -------
    pandas.DataFrame
        `cases` with the further columns.
    list
        Names of all columns of the result that say how an image was acquired: the cohort's own
        covariates first.
    """
    covariates = covariates_of(cases, concepts)
    more = {"image_size": cases["rows"].astype(str) + "x" + cases["columns"].astype(str)}
    for name in (*OPTIONAL, *covariates):
        missing = cases[name].isna()
        if missing.any() and not missing.all():
            more[f"{name}_missing"] = missing.astype("Int8")
    facts = store.facts(cases["image_id"].tolist()).drop(columns=[*IDENTITIES], errors="ignore")
    found = facts.pop("triage").str.split(";") if "triage" in facts else None
    for name in facts:
        more[name] = facts[name].astype("string").replace("", pd.NA)
    if found is not None:
        for reason in sorted({reason for reasons in found for reason in reasons} - {""}):
            more[reason] = pd.Series([int(reason in reasons) for reasons in found], dtype="Int8")
    added = {name: values for name, values in more.items() if name not in cases}
    result = cases.assign(**{name: pd.Series(v).to_numpy() for name, v in added.items()})
    return result, [*covariates, *SAID, *added]
