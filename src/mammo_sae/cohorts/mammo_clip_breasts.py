"""Mammo-CLIP's other table of VinDr-Mammo, `clip_vindr_final.csv`: one row per breast.

Cells are lists in Python's notation. `CC` and `MLO` are lists of the names of image files.
`CC_FINDING` and `MLO_FINDING` have four lists: the findings that are present in the right breast,
present in the left breast, absent in the right breast and absent in the left breast (README of
batmanlab/Mammo-CLIP, "Image-label dataset"). The table has no boxes and no classes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from mammo_sae.cohorts.image_files import fits
from mammo_sae.cohorts.sheet import Sheet
from mammo_sae.cohorts.tables import SPLITS
from mammo_sae.cohorts.vindr import CATEGORIES, CLASSES
from mammo_sae.errors import InputError

SIDES = {"L": "L", "R": "R"}
VIEWS = ("CC", "MLO")


def breast_images(
    sheet: Sheet, concepts: Mapping[str, str], covariates: Mapping[str, str], split: str | None
) -> pd.DataFrame:
    """Return the cohort's columns for each image, without the columns that come from its file.

    Raises
    ------
    InputError
        If the table lacks a concept or a covariate, or if a cell is malformed.
    """
    for concept, category in concepts.items():
        if category in CLASSES:
            raise InputError(
                f"concepts.{concept}: {sheet.name} has no {category!r}; use the table "
                "with a row per finding, vindr_detection_v1_folds.csv"
            )
    for name, column in covariates.items():
        if column not in sheet:
            raise InputError(
                f"covariates.{name}: {sheet.name} has no column {column!r}; set "
                "cohort.covariates to {} or to columns that it has"
            )
    splits = (
        [split] * len(sheet) if split else sheet.chosen("split", {name: name for name in SPLITS})
    )
    typed = {name: sheet.typed(column) for name, column in covariates.items()}
    records: list[dict[str, Any]] = []
    for row, patient, side, view, image, findings in breasts(sheet):
        records.append(
            {
                "source_image": image,
                "source_patient": patient,
                "split": splits[row],
                "view": view,
                "side": side,
                "density": None,
                "birads": None,
                **{c: int(category in findings) for c, category in concepts.items()},
                **{name: values.iloc[row] for name, values in typed.items()},
            }
        )
    columns = ["source_image", "source_patient", "split", "view", "side", "density", "birads"]
    return pd.DataFrame(records, columns=[*columns, *concepts, *covariates])


def breasts(sheet: Sheet) -> Iterator[tuple[int, str, str, str, str, set[str]]]:
    """Yield row, patient, side, view, image and findings, for every image of a good row."""
    patients, sides = sheet.text("patient_id"), sheet.chosen("laterality", SIDES)
    images: dict[str, list[list[str] | None]] = {}
    findings: dict[str, list[dict[str, list[Any]] | None]] = {}
    named: dict[str, int] = {}
    for view in VIEWS:
        images[view] = sheet.required(view, _texts, "a list of file names")
        column = f"{view}_FINDING"
        findings[view] = sheet.required(column, _findings, "lists of findings of R and L")
        for row, names in enumerate(images[view]):
            for image in names or ():
                before = named.setdefault(image, row)
                if before != row:
                    sheet.leave_out(row, view, "names an image a second time")
                    sheet.leave_out(before, view, "names an image that another row names")
    for view in VIEWS:
        for row, (patient, side) in enumerate(zip(patients, sides, strict=True)):
            if not sheet.good_row(row):
                continue
            assert side is not None  # every good row has a side
            present = (findings[view][row] or {}).get(side, [])
            for position, image in enumerate(images[view][row] or ()):
                nested = position < len(present) and isinstance(present[position], list)
                mine = present[position] if nested else present
                yield row, patient, side, view, image.removesuffix(".png"), set(mine)


def _texts(text: str) -> list[str]:
    found = ast.literal_eval(text)
    if not isinstance(found, list) or not all(isinstance(name, str) and name for name in found):
        raise ValueError
    if not all(fits(name) and not set(name) & set("/\\") for name in found):
        raise ValueError
    return found


def _findings(text: str) -> dict[str, list[Any]]:
    """Return the findings in the right and in the left breast: one list, or one list per image."""
    right, left = (
        ast.literal_eval(part) if isinstance(part, str) else part
        for part in ast.literal_eval(text)[:2]
    )
    names = {
        name for part in (*right, *left) for name in (part if isinstance(part, list) else [part])
    }
    if not names <= CATEGORIES:
        raise ValueError
    return {"R": right, "L": left}
