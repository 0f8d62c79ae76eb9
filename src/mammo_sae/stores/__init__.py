"""Zarr stores and tables. They are written under a temporary name, then renamed."""
