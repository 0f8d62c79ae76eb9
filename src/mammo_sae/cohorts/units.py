"""The two units of labels, images and rows of findings, under their names in settings.

They are in another module than `mammo_sae.cohorts.labels`, so that reading a configuration does not
import pandas.
"""

from __future__ import annotations

IMAGE, FINDING = "image", "finding"


def row_columns(concept: str) -> tuple[str, str]:
    """Return the names of the columns that count a concept's rows and its positive rows."""
    return f"{concept}_rows", f"{concept}_positive_rows"
