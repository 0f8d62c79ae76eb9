"""Confounder candidates: every column that says how an image was acquired, and varies.

They come from the image table (manufacturer, model, size and spacing of the original matrix, the
cohort's covariates, and whether a field is missing), and from what the conversion noted of each
file (`mammo_sae.stores.images`): transfer syntax, photometric interpretation, bits, VOI
transformation, and what triage found, such as an implant. Not what is merely wrong in a header or a
table (a malformed element, another side than annotated): no pixel tells it.

PNG, JPEG, TIFF and NPY files have no header: that it is missing from them says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mammo_sae.analysis.columns import SAID, covariates_of
from mammo_sae.stores.images import IDENTITIES, NOTICES, RASTERS, ImageReader

OPTIONAL = ("density", "birads", "age_bin", *SAID)
HEADER = ("age_bin", *SAID)  # what is read from headers, where a dataset's tables do not say it
SYNTAX = "transfer_syntax"


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
    facts = store.facts(cases["image_id"].tolist()).drop(
        columns=[*IDENTITIES, NOTICES], errors="ignore"
    )
    raster = np.isin(facts.get(SYNTAX, np.full(len(cases), "")), list(RASTERS))
    for name in (*OPTIONAL, *covariates):
        missing = cases[name].isna().reset_index(drop=True).astype("Int8")
        if name in HEADER:
            missing[raster & (missing == 1)] = pd.NA
        if missing.nunique() == 2:
            more[f"{name}_missing"] = missing
    found = facts.pop("triage").str.split(";") if "triage" in facts else None
    for name in facts:
        more[name] = facts[name].astype("string").replace("", pd.NA)
    if found is not None:
        for reason in sorted({reason for reasons in found for reason in reasons} - {""}):
            more[reason] = pd.Series([int(reason in reasons) for reasons in found], dtype="Int8")
    added = {name: values for name, values in more.items() if name not in cases}
    result = cases.assign(**{name: pd.Series(v).to_numpy() for name, v in added.items()})
    return result, [*covariates, *SAID, *added]


def unsaid(cases: pd.DataFrame, splits: Sequence[str]) -> list[str]:
    """Return what a header would say and no file of `splits` does, as they have none.

    Only the first such column, as of others that part the images in the same way.
    """
    rows = cases[cases["split"].isin(splits)]
    if not len(rows) or SYNTAX not in rows or not rows[SYNTAX].isin(RASTERS).all():
        return []
    return [name for name in SAID if rows[name].isna().all()][:1]


def why_unknown(cases: pd.DataFrame, name: str) -> str:
    """Return why no image of `cases` can be told by column `name`."""
    kinds = sorted(set(cases[SYNTAX].dropna()) & RASTERS) if SYNTAX in cases else []
    if kinds and name in SAID:
        return f"not testable: {' and '.join(kinds)} files do not say {', '.join(SAID)}"
    return f"not testable: {name} is known of no image"
