"""The results of a dataset's reader. Their source ids and paths are never written to a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mammo_sae.cohorts.columns import BOX
from mammo_sae.cohorts.sheet import Sheet
from mammo_sae.errors import InputError

FINDING_COLUMNS = ["source_image", "category", *BOX]
Keep = Callable[[str], bool]
"""A function of a source's patient id: True if the patient's images are to be read."""


@dataclass(frozen=True)
class SourceFiles:
    """The files of one image.

    `dicom` is the image itself, which may also be a PNG, JPEG, TIFF or NPY file. `patient` is the
    source's id. `mask` is an 8-bit image of bit planes with the size of the original matrix, and
    `mask_bits` maps each region to its bit. Datasets that have only boxes have no mask.
    `annotation` is the text of the cells that affect the conversion of the image: view, side, size,
    boxes. `others` are files from which boxes are read.
    """

    dicom: Path
    patient: str
    annotation: str = ""
    others: tuple[Path, ...] = ()
    mask: Path | None = None
    mask_bits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceCohort:
    """A dataset's annotations.

    Attributes
    ----------
    images
        The columns of the images table with `source_image` and `source_patient` instead of the
        pseudonyms, and without `shard`. If a file is not a readable image, `rows` is empty.
    findings
        `FINDING_COLUMNS`: a row per category of a box, in pixels of the original matrix and not yet
        clipped. The reader does not map categories to concepts.
    counts
        Counts of accepted irregularities, by name.
    finding_rows
        source_image, concept, rows, positive: the number of rows of the image in the source's table
        of findings, and the number of these with the concept. None if the source has no table of
        findings.
    sheets
        The tables that were read, with the rows that were left out.
    """

    images: pd.DataFrame
    findings: pd.DataFrame
    counts: Mapping[str, int]
    finding_rows: pd.DataFrame | None = None
    sheets: tuple[Sheet, ...] = ()


def check_concepts(concepts: Mapping[str, str], categories: Sequence[str]) -> None:
    """Refuse concepts with categories that the dataset does not have.

    Raises
    ------
    InputError
        If a category is unknown. The error names the first one, and the categories of the dataset.
    """
    unknown = sorted(set(concepts.values()) - set(categories))
    if unknown:
        raise InputError(f"concepts: {unknown[0]!r} is not one of {', '.join(categories)}")
