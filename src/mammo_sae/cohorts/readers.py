"""Find the reader for the settings of a cohort.

A reader is the class `READER` of the module with the name of its dataset, in this package or in
another one (`mammo_sae.extensions`). It is imported only when it is needed, and this module names
no reader. A cohort therefore depends only on the code of its own reader, and a new reader makes no
cohort of another dataset stale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from mammo_sae.cohorts.image_files import composed, is_image_name
from mammo_sae.cohorts.pseudonyms import Pseudonyms
from mammo_sae.cohorts.reader import Reader
from mammo_sae.cohorts.source import Keep, SourceCohort, SourceFiles
from mammo_sae.errors import InputError
from mammo_sae.extensions import COHORTS, module_added


def reader_module(kind: str) -> str:
    """Return the dotted name of the module that reads cohorts of a kind.

    Raises
    ------
    InputError
        If no module reads this kind, in this package or in another one.
    """
    own = f"{__package__}.{kind}"
    return own if find_spec(own) else module_added(COHORTS, kind)


def reader_class(kind: str) -> type[Reader]:
    """Return the class that reads cohorts of a kind."""
    return import_module(reader_module(kind)).READER


class Sources:
    """The folders of a cohort, each opened once.

    Parameters
    ----------
    kind
        Kind of the cohort, as in the settings.
    folders
        For the phantom, the parts of its archive. For other kinds, the source and, if the settings
        name it, the external folder, whose images become the split `external`.

    Attributes
    ----------
    reader
        The class that reads the folders.
    """

    def __init__(self, kind: str, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self.reader = reader_class(kind)
        self._readers = [self.reader(folder) for folder in self.folders]

    def annotations(
        self,
        concepts: Mapping[str, str],
        covariates: Mapping[str, str],
        keep: Keep | None = None,
    ) -> SourceCohort:
        """Return the annotations of all folders, in order.

        Parameters
        ----------
        concepts, covariates
            Name -> its name in the source.
        keep
            Which patients to read; all if it is not given.

        Raises
        ------
        InputError
            If something is missing or malformed. The error names it.
        """
        parts, wrong = [], []
        for position, reader in enumerate(self._readers):
            external = position > 0 and not self.reader.simulated
            try:
                _check_folder(reader.folder, self.reader.simulated)
                split = "external" if external else None
                parts.append(reader.annotations(concepts, covariates, split, keep))
            except InputError as error:
                wrong.append(f"cohort.external: {error}" if external else str(error))
        if wrong:
            raise InputError("; ".join(wrong))
        rows = [part.finding_rows for part in parts if part.finding_rows is not None]
        names = parts[0].counts
        return SourceCohort(
            images=pd.concat([part.images for part in parts], ignore_index=True),
            findings=pd.concat([part.findings for part in parts], ignore_index=True),
            counts={name: sum(part.counts.get(name, 0) for part in parts) for name in names},
            finding_rows=pd.concat(rows, ignore_index=True) if len(rows) == len(parts) else None,
            sheets=tuple(sheet for part in parts for sheet in part.sheets),
        )

    def files(self, pseudonyms: Pseudonyms, keep: Keep | None = None) -> dict[str, SourceFiles]:
        """Return the files of every image of kept patients, by pseudonym.

        Raises
        ------
        InputError
            If a source is missing or two images share a pseudonym.
        """
        found: dict[str, SourceFiles] = {}
        for reader in self._readers:
            _check_folder(reader.folder, self.reader.simulated)
            for source_id, files in reader.files(keep).items():
                image_id = pseudonyms.image(source_id)
                if image_id in found:
                    raise InputError(
                        f"image {image_id} occurs twice in the cohort's sources; remove one of them"
                    )
                found[image_id] = files
        return found

    def strays(self) -> list[str]:
        """Return the images without an annotation, by path below their folder."""
        found: set[str] = set()
        for reader in self._readers:
            images = set(filter(is_image_name, reader.folder.glob(reader.pattern)))
            strays = images - reader.named_files()
            found |= {composed(path.relative_to(reader.folder).as_posix()) for path in strays}
        return sorted(found)

    def masked_regions(self) -> tuple[list[str], list[str]]:
        """Return the categories and the artefacts that have exact masks, sorted."""
        names = {name for reader in self._readers for name in reader.mask_bits()}
        categories = self.reader.categories
        return sorted(names & categories), sorted(names - categories)

    def regions_of(self, concepts: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """Return the names of each concept's findings in the source and therefore in image stores.

        `concepts` maps names to categories.
        """
        return {name: self.reader.finding_names(name, of) for name, of in concepts.items()}


def _check_folder(folder: Path, simulated: bool) -> None:
    if not folder.is_dir():
        advice = (
            "run the workflow, which makes it" if simulated else "correct its path in the settings"
        )
        raise InputError(f"cohort folder {folder} is missing; {advice}")
