"""Zarr stores and tables, written safely: under a temporary name, then renamed, manifest last."""
