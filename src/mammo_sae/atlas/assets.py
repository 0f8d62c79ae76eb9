"""The files of the atlas that are not Python: templates, scripts and the style sheet."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable

PACKAGE = "mammo_sae.atlas"


def assets(folder: str) -> list[Traversable]:
    """Return the files of `static` or `templates`, by name."""
    entries = (files(PACKAGE) / folder).iterdir()
    return sorted((file for file in entries if file.is_file()), key=lambda file: file.name)


def assets_digest() -> str:
    """Return the SHA-256 of all templates, scripts and styles: a change makes the atlas stale."""
    total = hashlib.sha256()
    for folder in ("static", "templates"):
        for file in assets(folder):
            total.update(f"{folder}/{file.name}\0".encode())
            total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()
