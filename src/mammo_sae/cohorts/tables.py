"""The two tables of a cohort, and the check that the tables of every reader must pass.

`images` has one row per image, and `findings` has one row per box. Both name images only by
pseudonym.

==================  ========  ======================================================
images              type      meaning
==================  ========  ======================================================
image_id            string    pseudonym, 16 hexadecimal digits
patient_id          string    pseudonym, 16 hexadecimal digits
split               string    training, validation, test or external
shard               Int16     hash bucket of the patient
view                string    CC or MLO
side                string    L or R
<concept>           Int8      1 present, 0 absent, NA unknown; one column per concept
density             string    A, B, C, D or NA
birads              Int8      0 to 6 or NA
manufacturer        string    as the source says, or NA
model               string    as the source says, or NA
rows, columns       Int32     size of the original matrix, pixels
pixel_spacing_mm    Float64   of the original matrix, mm, or NA
age_bin             string    <40, 40-49, 50-59, 60-69, >=70 or NA
<covariate>         any       further columns that the settings name
<concept>_rows      Int32     only labels by finding: rows with a known label for the concept
<concept>_positive_rows       and how many of them are positive (`mammo_sae.cohorts.labels`)
==================  ========  ======================================================

`findings`: image_id, concept, and xmin, ymin, xmax, ymax (Float64) in pixels of the original
matrix. Edges of pixels are at whole numbers, and boxes lie inside the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from mammo_sae.cohorts.columns import BOX
from mammo_sae.errors import InputError

SPLITS = ("training", "validation", "test", "external")
FINDING_COLUMNS = ["image_id", "concept", *BOX]
ROWS_AT_ONCE = 10_000

_IMAGE_TYPES = {
    "image_id": "string",
    "patient_id": "string",
    "split": "string",
    "shard": "Int16",
    "view": "string",
    "side": "string",
    "density": "string",
    "birads": "Int8",
    "manufacturer": "string",
    "model": "string",
    "rows": "Int32",
    "columns": "Int32",
    "pixel_spacing_mm": "Float64",
    "age_bin": "string",
}
Text = Annotated[str, Field(min_length=1)]
Pixels = Annotated[int, Field(ge=1)]
Flag = Literal[0, 1]


class ImageRow(BaseModel):
    """One row of the images table, without its concepts and covariates."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    image_id: Text
    patient_id: Text
    split: Literal["training", "validation", "test", "external"]
    shard: Annotated[int, Field(ge=0)]
    view: Literal["CC", "MLO"]
    side: Literal["L", "R"]
    density: Literal["A", "B", "C", "D"] | None
    birads: Annotated[int, Field(ge=0, le=6)] | None
    manufacturer: Text | None
    model: Text | None
    rows: Pixels
    columns: Pixels
    pixel_spacing_mm: Annotated[float, Field(gt=0)] | None
    age_bin: Literal["<40", "40-49", "50-59", "60-69", ">=70"] | None


class FindingRow(BaseModel):
    """One row of the findings table."""

    model_config = ConfigDict(allow_inf_nan=False)

    image_id: Text
    concept: Text
    xmin: Annotated[float, Field(ge=0)]
    ymin: Annotated[float, Field(ge=0)]
    xmax: float
    ymax: float


def age_bin(years: int | None) -> str | None:
    """Return the ten-year bin of an age.

    Ages below 40 share one bin, and so do ages from 70 on, because few patients have them.
    """
    if years is None:
        return None
    if years < 40:
        return "<40"
    if years >= 70:
        return ">=70"
    return f"{years // 10 * 10}-{years // 10 * 10 + 9}"


def validated_images(
    frame: pd.DataFrame, concepts: Sequence[str], covariates: Sequence[str] = ()
) -> pd.DataFrame:
    """Return `frame` with the columns and types of the images table, sorted by image_id.

    Raises
    ------
    InputError
        If a column is missing, a value is not allowed, an image occurs twice, or a patient is in
        two splits or shards.
    """
    before, after = list(_IMAGE_TYPES)[:6], list(_IMAGE_TYPES)[6:]
    wanted = [*before, *concepts, *after, *covariates]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise InputError(f"images table: column {missing[0]} is missing; build the cohort again")
    if frame.empty:
        raise InputError("images table: no image; check the cohort's source and splits")
    flags: dict[str, Any] = dict.fromkeys(concepts, (Flag | None, None))
    row = create_model("ImageRow", __base__=ImageRow, **flags)
    _check(frame, row, "images table")
    types = {**_IMAGE_TYPES, **dict.fromkeys(concepts, "Int8")}
    table = frame[wanted].astype(types)
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        raise InputError(
            f"images table: image {twice.iloc[0]} occurs twice; remove one from the source"
        )
    for name in ("split", "shard"):
        spread = table.groupby("patient_id", sort=True)[name].nunique()
        if (spread > 1).any():
            raise InputError(
                f"images table: patient {spread.index[spread > 1][0]} is in two {name}s; "
                "a patient's images must stay together"
            )
    return table.sort_values("image_id", kind="stable", ignore_index=True)


def validated_findings(frame: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` with the columns and types of the findings table, sorted.

    Raises
    ------
    InputError
        If a box belongs to no image, is empty, or extends beyond its image.
    """
    missing = [name for name in FINDING_COLUMNS if name not in frame.columns]
    if missing:
        raise InputError(f"findings table: column {', '.join(missing)} is missing")
    _check(frame, FindingRow, "findings table")
    table = frame[FINDING_COLUMNS].astype(
        {"image_id": "string", "concept": "string", **dict.fromkeys(BOX, "Float64")}
    )
    known = images.set_index("image_id")[["rows", "columns"]]
    stray = table["image_id"][~table["image_id"].isin(known.index)]
    if len(stray):
        raise InputError(f"findings table: image {stray.iloc[0]} is not in the images table")
    size = known.loc[table["image_id"]].reset_index(drop=True)
    table = table.reset_index(drop=True)
    wrong = (
        (table["xmax"] > size["columns"])
        | (table["ymax"] > size["rows"])
        | (table["xmin"] >= table["xmax"])
        | (table["ymin"] >= table["ymax"])
    )
    if wrong.any():
        raise InputError(
            f"findings table: a box of image {table['image_id'][wrong].iloc[0]} is empty or "
            "extends beyond the image"
        )
    return table.sort_values(FINDING_COLUMNS, kind="stable", ignore_index=True)


def _check(frame: pd.DataFrame, row: type[BaseModel], what: str) -> None:
    """Raise an error that names image and column of the first cell that `row` does not allow."""
    # Type checkers do not allow types that are created at run time.
    rows = TypeAdapter(list[row])  # type: ignore[valid-type]
    # As objects, rows need ten times the memory of the table.
    for start in range(0, len(frame), ROWS_AT_ONCE):
        plain = frame[[*row.model_fields]].iloc[start : start + ROWS_AT_ONCE].astype(object)
        records = plain.where(plain.notna(), None).to_dict("records")
        try:
            rows.validate_python(records)
        except ValidationError as error:
            first = error.errors()[0]
            number, column = first["loc"][:2]
            image = records[number]["image_id"]
            said = first["msg"][0].lower() + first["msg"][1:]
            raise InputError(
                f"{what}: image {image}, column {column} has {first['input']!r}; {said}"
            ) from None
