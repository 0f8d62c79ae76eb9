"""The results of a dataset's reader. Source ids and paths are never written to a file."""

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

    `dicom` is the image itself, which may be a PNG, JPEG, TIFF or NPY file as well. `patient` is
    the source's id. `mask` is an 8-bit image of bit planes, of the original matrix;
    `mask_bits` says which bit is which region. Datasets with boxes alone have no mask.
    `annotation` is the text of the cells that the image's conversion depends on: view, side, size,
    boxes; `others` are files that boxes are read from.
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
        The columns of the images table with `source_image` and `source_patient` in place of the
        pseudonyms, and without `shard`. Where a file is no readable image, `rows` is empty.
    findings
        `FINDING_COLUMNS`: a row per category of a box, in pixels of the original matrix and not yet
        clipped. Which concept a category stands for is not the reader's business.
    counts
        What a reader noticed and did not refuse, by name.
    finding_rows
        source_image, concept, rows, positive: how many rows the source's table of findings has of
        the image, and how many of these have the concept. None where it has no such table.
    sheets
        The tables that were read, with what was left out of them.
    """

    images: pd.DataFrame
    findings: pd.DataFrame
    counts: Mapping[str, int]
    finding_rows: pd.DataFrame | None = None
    sheets: tuple[Sheet, ...] = ()


def check_concepts(concepts: Mapping[str, str], categories: Sequence[str]) -> None:
    """Refuse concepts of categories that the dataset does not have.

    Raises
    ------
    InputError
        Naming the first such category and those there are.
    """
    unknown = sorted(set(concepts.values()) - set(categories))
    if unknown:
        raise InputError(f"concepts: {unknown[0]!r} is not one of {', '.join(categories)}")
