"""Confounder candidates: all columns that describe how an image was acquired and that vary.

One source is the image table: manufacturer, model, size and spacing of the original matrix, the
cohort's covariates, and whether a field is missing. The other is the facts that the conversion
recorded of each file (`mammo_sae.stores.images`): transfer syntax, photometric interpretation,
bits, VOI transformation, and findings of triage such as an implant. Defects of a header or table
(a malformed element, a side other than annotated) are no candidates: no pixel shows them.

PNG, JPEG, TIFF and NPY files have no header, so a missing header field is no candidate for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mammo_sae.analysis.columns import SAID, covariates_of
from mammo_sae.stores.images import IDENTITIES, NOTICES, RASTERS, ImageReader

OPTIONAL = ("density", "birads", "age_bin", *SAID)
HEADER = ("age_bin", *SAID)  # read from headers if a dataset's tables lack them
SYNTAX = "transfer_syntax"


def with_acquisition(
    cases: pd.DataFrame, store: ImageReader, concepts: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Add the facts of the conversion, and whether fields are missing, to `cases`.

    Returns
    -------
    pandas.DataFrame
        `cases` with more columns.
    list
        Names of all columns that describe how an image was acquired. The cohort's own covariates
        come first.
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
    """Return columns that headers would give but that no file of `splits` gives, as it has none.

    Of columns that divide the images in the same way, only the first is returned.
    """
    rows = cases[cases["split"].isin(splits)]
    if not len(rows) or SYNTAX not in rows or not rows[SYNTAX].isin(RASTERS).all():
        return []
    return [name for name in SAID if rows[name].isna().all()][:1]


def why_unknown(cases: pd.DataFrame, name: str) -> str:
    """Return why column `name` is unknown for all images of `cases`."""
    kinds = sorted(set(cases[SYNTAX].dropna()) & RASTERS) if SYNTAX in cases else []
    if kinds and name in SAID:
        return f"not testable: {' and '.join(kinds)} files do not say {', '.join(SAID)}"
    return f"not testable: {name} is known of no image"
