"""Names of the columns of the cohort's tables; `tables` documents their types and meanings."""

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
"""Columns of every images table. It has further columns, one per concept and covariate."""

BOX = ["xmin", "ymin", "xmax", "ymax"]
"""Columns of a box."""
