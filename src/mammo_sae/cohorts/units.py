"""What labels are counted by, images or rows of findings, in words that settings use too.

Apart from `mammo_sae.cohorts.labels`, so that reading a configuration imports no pandas.
"""

from __future__ import annotations

IMAGE, FINDING = "image", "finding"


def row_columns(concept: str) -> tuple[str, str]:
    """Return the columns of a concept's rows of findings, and of the positive ones among them."""
    return f"{concept}_rows", f"{concept}_positive_rows"
