"""What every dataset's reader is: an object that opens one folder once and answers questions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from mammo_sae.cohorts.image_files import Listings
from mammo_sae.cohorts.sheet import Sheet
from mammo_sae.cohorts.source import Keep, SourceCohort, SourceFiles
from mammo_sae.errors import InputError


class Reader(ABC):
    """A folder of one dataset.

    A table is parsed when it is first asked for, and kept. So a reader answers as of its opening:
    a folder that has changed is opened anew.

    Parameters
    ----------
    folder
        The dataset's root.

    Attributes
    ----------
    tables
        Paths in the folder of all tables and descriptions that are read.
    pattern
        Where images lie in the folder, as a glob.
    categories
        The findings that masks may be of. Other masks are of artefacts.
    simulated
        Whether this package wrote the folder. Then every folder of a cohort is a part of it with
        splits of its own, and no file can make a decoder end its process.
    """

    tables: ClassVar[tuple[str, ...]]
    pattern: ClassVar[str]
    categories: ClassVar[frozenset[str]] = frozenset()
    simulated: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parsed: dict[str, Sheet] = {}

    @abstractmethod
    def annotations(
        self,
        concepts: Mapping[str, str],
        covariates: Mapping[str, str],
        split: str | None = None,
        keep: Keep | None = None,
    ) -> SourceCohort:
        """Return what the folder says of its images.

        Parameters
        ----------
        concepts
            Concept name -> what the dataset calls it.
        covariates
            Covariate name -> column of the dataset's tables.
        split
            The split of all images, instead of what the folder says.
        keep
            Which patients to read; all without it.

        Raises
        ------
        InputError
            Naming the missing file, or the file, line and column that is malformed.
        """

    @abstractmethod
    def files(self, keep: Keep | None = None) -> dict[str, SourceFiles]:
        """Return the files of every image of kept patients by source image id.

        No image is opened unless a folder's name leaves open whose it is. Files need not exist.

        Raises
        ------
        InputError
            If a table is missing or malformed.
        """

    def named_files(self) -> set[Path]:
        """Return all image files that the tables name, those that are not read too."""
        return {path for files in self.files().values() for path in (files.dicom, *files.others)}

    def mask_bits(self) -> dict[str, int]:
        """Return which bit of a mask is which category or artefact; empty without exact masks."""
        return {}

    @classmethod
    def finding_names(cls, concept: str, category: str) -> tuple[str, ...]:
        """Return what the dataset's findings of a concept, which is for `category`, are called."""
        del concept
        return (category,)

    @cached_property
    def listings(self) -> Listings:
        """The folder's image files; every folder is listed once."""
        return Listings()

    def table(
        self,
        name: str,
        *,
        needed: Sequence[str] = (),
        columns: Collection[str] | None = None,
        separator: str = ",",
    ) -> Sheet:
        """Return a table as it stands in the folder; what the caller leaves out is its own affair.

        Parameters
        ----------
        name, separator, columns, needed
            As of `Sheet`; the table is parsed again only for columns that were not read yet.

        Raises
        ------
        InputError
            If the file is missing or no table, or lacks columns, all of which are named.
        """
        parsed = self._parsed.get(name)
        if parsed is None or not parsed.holds(columns):
            wanted = columns
            if parsed is not None and wanted is not None and parsed.columns is not None:
                wanted = {*wanted, *parsed.columns}
            parsed = Sheet(self.folder, name, separator=separator, columns=wanted, needed=needed)
            self._parsed[name] = parsed
        return parsed.fresh(columns, needed)

    def every_table(self, needed: Mapping[str, Sequence[str]]) -> list[Sheet]:
        """Return tables, each with the columns it must have.

        Raises
        ------
        InputError
            Naming all tables that are missing or can't be read, and all columns that are missing.
        """
        sheets, wrong = [], []
        for name, columns in needed.items():
            try:
                sheets.append(self.table(name, needed=columns))
            except InputError as error:
                wrong.append(str(error))
        if wrong:
            raise InputError("; ".join(wrong))
        return sheets
