"""Confounder candidates: the columns that describe how an image was acquired.

They have three sources:

- the image table: manufacturer, model, size and spacing of the original matrix, the cohort's
  covariates, and whether a field is missing;
- what the conversion recorded about each file (`mammo_sae.stores.images`): transfer syntax,
  photometric interpretation, bits, VOI transformation, and what triage noticed, such as an implant;
- the measurements of the image (`mammo_sae.images.measurements`), except those of tissue.

Defects of a header or table (a malformed element, a side that differs from the annotated side) are
not candidates, because they do not change a pixel. PNG, JPEG, TIFF and NPY files have no header.
For these files, the column that says whether a header field is missing is therefore unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.analysis.cases import read_cases
from mammo_sae.analysis.columns import SAID, TISSUE, covariates_of
from mammo_sae.images.measurements import MEASUREMENTS
from mammo_sae.stores.images import IDENTITIES, NOTICES, RASTERS, ImageReader
from mammo_sae.stores.tables import read_table

OPTIONAL = ("density", "birads", "age_bin", *SAID)
HEADER = ("age_bin", *SAID)  # these are read from the header if the dataset's tables lack them
SYNTAX = "transfer_syntax"
UNMEASURED = "unmeasured"
"""Name of the column of the cases that says why a measurement is unknown."""


def read_candidates(
    images: Path,
    image_ids: Sequence[str],
    store: ImageReader,
    concepts: Sequence[str],
    measurements: Sequence[Path],
) -> tuple[pd.DataFrame, list[str]]:
    """Read the cases with everything that may be a confounder: facts about files, measurements.

    Parameters
    ----------
    images
        Image table.
    image_ids : [n]
    store
        Canonical images.
    concepts
        Columns of the image table.
    measurements
        Tables of the step `measurements`, all shards.

    Returns
    -------
    pandas.DataFrame
        The rows of `mammo_sae.analysis.cases.read_cases`, with the columns that `with_acquisition`
        and `with_measurements` add.
    list
        Names of all columns that describe how an image was acquired.
    """
    cases, acquisition = with_acquisition(read_cases(images, image_ids), store, concepts)
    cases, measured = with_measurements(cases, pd.concat(map(read_table, measurements)))
    return cases, [*acquisition, *measured]


def with_measurements(
    cases: pd.DataFrame, measured: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]]:
    """Add the measurements of images to `cases`; a column that `cases` already has is not replaced.

    Returns
    -------
    pandas.DataFrame
        `cases` with more columns.
    list
        Names of the added columns that describe how an image was acquired.
    """
    rows = measured.set_index("image_id").reindex(cases["image_id"])
    added = [name for name in MEASUREMENTS if name not in cases]
    result = cases.assign(**{name: rows[name].to_numpy() for name in added})
    result[UNMEASURED] = rows["reason"].to_numpy()
    return result, [name for name in added if name not in TISSUE]


def with_acquisition(
    cases: pd.DataFrame, store: ImageReader, concepts: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Add to `cases` what the conversion recorded, and whether fields are missing.

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
    """Return the columns that the table shows as not testable, because no value is known.

    Unknown means: for all images of `splits`. The columns are the measurements of the acquisition
    that could not be made. If no image file has a header, the first unknown column of `SAID` is
    returned too. Its reason names all columns of `SAID` (`why_unknown`).
    """
    rows = cases[cases["split"].isin(splits)]
    if not len(rows):
        return []
    headless = SYNTAX in rows and rows[SYNTAX].isin(RASTERS).all()
    unknown = [name for name in SAID if headless and rows[name].isna().all()][:1]
    if UNMEASURED in rows:
        measured = [name for name in MEASUREMENTS if name not in TISSUE]
        unknown += [name for name in measured if rows[name].isna().all()]
    return unknown


def why_unknown(cases: pd.DataFrame, name: str) -> str:
    """Return why column `name` is unknown for all images of `cases`."""
    kinds = sorted(set(cases[SYNTAX].dropna()) & RASTERS) if SYNTAX in cases else []
    if kinds and name in SAID:
        return f"not testable: {' and '.join(kinds)} files do not record {', '.join(SAID)}"
    if name in MEASUREMENTS and UNMEASURED in cases and len(cases):
        reason = cases[UNMEASURED].value_counts().index[0]
        return f"not testable: {name} could not be measured ({reason})"
    return f"not testable: {name} is unknown for every image"
