"""Random streams and ids from SHA-256, so that nothing depends on the order of generation."""

from __future__ import annotations

import hashlib

import numpy as np

from mammo_sae.settings import canonical_json


def key_digest(*key: str | int) -> bytes:
    """Return the SHA-256 of `key`, 32 bytes."""
    return hashlib.sha256(canonical_json(key).encode()).digest()


def random_stream(*key: str | int) -> np.random.Generator:
    """Return the generator of `key`.

    Each thing that is drawn has its own key (cohort seed, part, patient, side, view, component).
    A patient added, or a component switched off, therefore leaves every other draw as it was.
    """
    return np.random.Generator(np.random.PCG64(int.from_bytes(key_digest(*key)[:16], "big")))
