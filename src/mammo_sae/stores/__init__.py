"""Zarr stores and tables that can be trusted: written aside, verified, renamed, manifest last."""
