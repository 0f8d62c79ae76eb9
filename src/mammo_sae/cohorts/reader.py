"""The base class of the readers of datasets. A reader opens one folder once."""

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

    A table is parsed when it is first requested, and kept. A reader therefore does not notice later
    changes of the folder. Open a changed folder again.

    Parameters
    ----------
    folder
        The dataset's root.

    Attributes
    ----------
    tables
        Paths in the folder of all tables and descriptions that are read.
    pattern
        Glob pattern of the images' paths in the folder.
    categories
        The categories of findings that masks may show. Other masks show artefacts.
    simulated
        Whether this package wrote the folder. Then every folder of a cohort is a part with its own
        splits, and no file can make a decoder crash its process.
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
        """Return the annotations of the folder's images.

        Parameters
        ----------
        concepts
            Concept name -> its name in the dataset.
        covariates
            Covariate name -> column of the dataset's tables.
        split
            If given, the split of all images. Splits in the folder's tables are then ignored.
        keep
            Which patients to read; all if it is not given.

        Raises
        ------
        InputError
            If something is missing or malformed. The error names the missing file, or the file,
            line and column.
        """

    @abstractmethod
    def files(self, keep: Keep | None = None) -> dict[str, SourceFiles]:
        """Return the files of every image of kept patients, by source image id.

        Images are opened only if the name of a folder does not identify the patient. Files need not
        exist.

        Raises
        ------
        InputError
            If a table is missing or malformed.
        """

    def named_files(self) -> set[Path]:
        """Return all image files that the tables name, also those that are not read."""
        return {path for files in self.files().values() for path in (files.dicom, *files.others)}

    def mask_bits(self) -> dict[str, int]:
        """Return category or artefact -> its bit in the masks; empty if there are no masks."""
        return {}

    @classmethod
    def finding_names(cls, concept: str, category: str) -> tuple[str, ...]:
        """Return the dataset's names of the findings of a concept with the category `category`."""
        del concept
        return (category,)

    @cached_property
    def listings(self) -> Listings:
        """The image files of the folder. Every folder is listed only once."""
        return Listings()

    def table(
        self,
        name: str,
        *,
        needed: Sequence[str] = (),
        columns: Collection[str] | None = None,
        separator: str = ",",
    ) -> Sheet:
        """Return a new copy of a table. Rows that one caller leaves out stay in other copies.

        Parameters
        ----------
        name, separator, columns, needed
            As for `Sheet`. The table is parsed again only for columns that were not read yet.

        Raises
        ------
        InputError
            If the file is missing or is not a table, or if it lacks columns. The error names all of
            them.
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
        """Return tables, each with its required columns.

        Raises
        ------
        InputError
            If tables are missing or can't be read, or columns are missing. The error names all of
            them.
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
