"""Readers of SAEs from other libraries, and a writer of SAELens's layout."""
