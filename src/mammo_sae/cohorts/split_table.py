"""Step: the split of every image, in a table without labels.

What needs no label depends on this table alone, so a concept that is renamed or added reruns none
of it. Where patients are drawn, they are drawn by labels, but the table still holds none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mammo_sae.cohorts.annotations import read_annotations
from mammo_sae.cohorts.facts import files_unread
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.cohorts.splits import splits_of_patients
from mammo_sae.stores.tables import write_table

if TYPE_CHECKING:
    from mammo_sae.cohorts.settings import SplitSettings


def run(settings: SplitSettings, sources: Sequence[Path], output: Path) -> list[Path]:
    """Read which image is of which split, and write it without any label.

    Parameters
    ----------
    settings
        What the cohort's splits depend on.
    sources
        Its folders, see `mammo_sae.cohorts.readers.Sources`.
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
    """Return a table of image_id and split, a row per image whose file is there, by image_id.

    Raises
    ------
    InputError
        If the sources are missing or malformed.

    Notes
    -----
    No image file is opened, so files that can't be read have a row here; they have none in the
    image stores, nor in what is computed from these.
    """
    pseudonyms = load_pseudonyms(settings.key_file)
    concepts = {f"category_{number}": name for number, name in enumerate(settings.categories)}
    # Headers take hours where tables take seconds, and no split stands in one.
    with files_unread():
        found = read_annotations(sources, concepts, {}, pseudonyms)
    splits = splits_of_patients(found.labels, concepts, settings, pseudonyms)
    table = found.images.assign(split=found.images["source_patient"].map(splits))
    return table[["image_id", "split"]].sort_values("image_id", ignore_index=True)
