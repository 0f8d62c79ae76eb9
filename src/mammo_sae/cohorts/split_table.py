"""Step: the split of every image, read apart from its labels.

What needs no label depends on this table alone, so a concept that is renamed or added reruns none
of it. It is for sources that say themselves which patients are of which split. Splits that are
drawn are drawn by labels, and stand in the cohort's table of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mammo_sae.cohorts.annotations import read_annotations
from mammo_sae.cohorts.facts import files_unread
from mammo_sae.cohorts.pseudonyms import load_pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.stores.tables import write_table

if TYPE_CHECKING:
    from mammo_sae.cohorts.settings import SplitSettings


def run(settings: SplitSettings, sources: Sequence[Path], output: Path) -> None:
    """Write a table of image_id and split, a row per image whose file is there, by image_id.

    Parameters
    ----------
    settings
        The cohort's kind and key.
    sources
        Its folders, see `mammo_sae.cohorts.readers.Sources`.
    output
        The table to write (.parquet).

    Raises
    ------
    InputError
        If the sources are missing or malformed.

    Notes
    -----
    No image file is opened, so files that can't be read have a row here; they have none in the
    image stores, nor in what is computed from these.
    """
    # Headers take hours where tables take seconds, and no split stands in one.
    with files_unread():
        opened = Sources(settings.kind, sources)
        found = read_annotations(opened, {}, {}, load_pseudonyms(settings.key_file))
    table = found.images[["image_id", "split"]].sort_values("image_id", ignore_index=True)
    write_table(table, output)
