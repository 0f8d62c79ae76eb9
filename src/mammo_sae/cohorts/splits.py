"""Step: the split of every image, in a table without labels.

Steps that need no label depend only on this table, so they do not rerun when a concept is renamed
or added. If patients are drawn into splits, the draw uses labels, but the table contains none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mammo_sae.cohorts.annotations import read_annotations
from mammo_sae.cohorts.draw import splits_of_patients
from mammo_sae.cohorts.facts import files_unread
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.stores.tables import write_table

if TYPE_CHECKING:
    from mammo_sae.cohorts.settings import SplitSettings


def run(settings: SplitSettings, sources: Sequence[Path], output: Path) -> list[Path]:
    """Read the split of each image, and write it without any label.

    Parameters
    ----------
    settings
        The settings that determine the cohort's splits.
    sources
        The folders of the cohort, see `mammo_sae.cohorts.readers.Sources`.
    output
        The table to write (.parquet).

    Raises
    ------
    InputError
        If the sources are missing or malformed.
    """
    write_table(split_table(settings, Sources(settings.kind, sources)), output)
    return [output]


def split_table(settings: SplitSettings, sources: Sources) -> pd.DataFrame:
    """Return a table of image_id and split, sorted, with a row per image whose file exists.

    Raises
    ------
    InputError
        If the sources are missing or malformed.

    Notes
    -----
    No image file is opened, so files that can't be read have a row here. They have no row in the
    image stores and in results that are computed from these.
    """
    pseudonyms = load_pseudonyms(settings.key_file)
    concepts = {f"category_{number}": name for number, name in enumerate(settings.categories)}
    # Tables take seconds to read, headers may take hours, and no header contains a split.
    with files_unread():
        found = read_annotations(sources, concepts, {}, pseudonyms)
    splits = splits_of_patients(found.labels, concepts, settings, pseudonyms)
    table = found.images.assign(split=found.images["source_patient"].map(splits))
    return table[["image_id", "split"]].sort_values("image_id", ignore_index=True)
