"""Which regions of the image stores belong to a concept.

Image stores use the source's names of regions, so that concepts can be renamed, added or merged
without converting an image again. The regions of each concept are an attribute of the cohort's
images table.
"""

from __future__ import annotations

from pathlib import Path

from mammo_sae.stores.tables import read_table

REGIONS = "regions"


def concept_regions(images: Path) -> dict[str, list[str]] | None:
    """Return the regions of each concept, None if the images table does not contain them.

    Raises
    ------
    InputError
        If the table is missing or can't be read.
    """
    return read_table(images).attrs.get(REGIONS)
