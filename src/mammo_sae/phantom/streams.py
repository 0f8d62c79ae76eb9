"""Random streams and ids from SHA-256. They do not depend on the order of generation."""

from __future__ import annotations

import hashlib

import numpy as np

from mammo_sae.settings import canonical_json


def key_digest(*key: str | int) -> bytes:
    """Return the SHA-256 of `key`, 32 bytes."""
    return hashlib.sha256(canonical_json(key).encode()).digest()


def random_stream(*key: str | int) -> np.random.Generator:
    """Return the random generator of `key`.

    The key of a draw is (cohort seed, part, patient, side, view, component); draws that both views
    share have no side and view. Therefore an added patient, or a component that is switched off,
    changes no other draw.
    """
    return np.random.Generator(np.random.PCG64(int.from_bytes(key_digest(*key)[:16], "big")))
