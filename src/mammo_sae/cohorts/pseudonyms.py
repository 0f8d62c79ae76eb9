"""Pseudonyms: keyed hashes of source ids, the only ids in any result."""

from __future__ import annotations

import hmac
import shlex
from dataclasses import dataclass
from pathlib import Path

from mammo_sae.errors import InputError

PUBLIC_KEY = b"mammo-sae"
LEAST_KEY_BYTES = 16


@dataclass(frozen=True, repr=False)
class Pseudonyms:
    """HMAC-SHA256 of ids under one key. Without the key nobody can compute a pseudonym of an id."""

    key: bytes

    def image(self, source_id: str) -> str:
        """Return the pseudonym of an image: 16 hexadecimal digits."""
        return self._hash("image", source_id)[:16]

    def patient(self, source_id: str) -> str:
        """Return the pseudonym of a patient: 16 hexadecimal digits."""
        return self._hash("patient", source_id)[:16]

    def content(self, identity: str) -> str:
        """Return the pseudonym, 16 hexadecimal digits, of an identity that equal files share."""
        return self._hash("content", identity)[:16]

    def shard(self, source_id: str, shards: int) -> int:
        """Return the shard of a patient, 0 to `shards` - 1. Other patients do not affect it."""
        return int(self._hash("shard", source_id), 16) % shards

    def share(self, source_id: str, seed: int) -> float:
        """Return a number in [0, 1) by which patients are drawn into splits."""
        return int(self._hash(f"share {seed}", source_id)[:13], 16) / 16**13

    def _hash(self, purpose: str, source_id: str) -> str:
        return hmac.digest(self.key, f"{purpose}:{source_id}".encode(), "sha256").hex()


def load_pseudonyms(key_file: str | None) -> Pseudonyms:
    """Return pseudonyms under the key in `key_file`, or under the public key if it is None.

    Raises
    ------
    InputError
        If the file is missing or holds fewer than 16 bytes.
    """
    if key_file is None:
        return Pseudonyms(PUBLIC_KEY)
    make = f"openssl rand -hex 32 > {shlex.quote(key_file)}"
    try:
        key = Path(key_file).read_bytes().strip()
    except OSError as error:
        raise InputError(
            f"key_file {key_file} can't be read ({error.strerror}); make one with "
            f"`{make}` and keep it outside of the results"
        ) from None
    if len(key) < LEAST_KEY_BYTES:
        raise InputError(
            f"key_file {key_file} holds {len(key)} bytes; a key needs {LEAST_KEY_BYTES} or more, "
            f"make one with `{make}`"
        )
    return Pseudonyms(key)
