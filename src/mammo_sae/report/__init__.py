"""Figures, tables and captions of the report."""
