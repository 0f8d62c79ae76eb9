"""Which regions of the image stores belong to a concept.

Image stores name regions as the source does, so that concepts can be renamed, added or put together
without converting an image again. What a concept stands for is an attribute of the cohort's images
table.
"""

from __future__ import annotations

from pathlib import Path

from mammo_sae.stores.tables import read_table

REGIONS = "regions"


def concept_regions(images: Path) -> dict[str, list[str]] | None:
    """Return the regions of each concept, None if the images table does not say.

    Raises
    ------
    InputError
        If the table is missing or can't be read.
    """
    return read_table(images).attrs.get(REGIONS)
