"""Names of the tables' columns; their types and meaning are in `tables`."""

from __future__ import annotations

IMAGE_COLUMNS = (
    "image_id",
    "patient_id",
    "split",
    "shard",
    "view",
    "side",
    "density",
    "birads",
    "manufacturer",
    "model",
    "rows",
    "columns",
    "pixel_spacing_mm",
    "age_bin",
)
"""Columns that every images table has, besides one per concept and covariate."""

BOX = ["xmin", "ymin", "xmax", "ymax"]
"""Columns of a box."""
