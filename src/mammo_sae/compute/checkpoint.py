"""Checkpoints: the state of an unfinished training run, from which a killed run resumes.

A checkpoint is a file of `torch.save`, followed by the 32 bytes of its SHA-256. The SHA-256 is
needed because torch reads damaged tensors without an error.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mammo_sae.errors import first_line
from mammo_sae.settings import canonical_json
from mammo_sae.stores.checksums import file_digest
from mammo_sae.stores.publish import atomic_file

DIGEST_BYTES = hashlib.sha256().digest_size


class Checkpoint:
    """A file with the state of one run, which no other run can load.

    Parameters
    ----------
    path
        The file.
    identity
        Everything that decides the run's result, as JSON values or settings.
    device
        Where the run computes. It is part of the identity, as is the version of PyTorch.
    """

    def __init__(self, path: Path, identity: Sequence[Any], device: torch.device) -> None:
        self._path = path
        self._device = device
        whole = [*identity, device.type, torch.__version__]
        self._key = hashlib.sha256(canonical_json(whole).encode()).hexdigest()

    def save(self, state: dict[str, Any]) -> None:
        """Write `state`, in place of an earlier one."""
        with atomic_file(self._path) as aside:
            torch.save({"key": self._key, "state": state}, aside)
            digest = bytes.fromhex(file_digest(aside))
            with aside.open("ab") as stream:
                stream.write(digest)

    def load(self) -> dict[str, Any] | None:
        """Return the state of this run, or None if training has to start over.

        If the file is damaged or belongs to another run, a line on standard error says so.
        """
        if not self._path.is_file():
            return None
        if not self._is_whole():
            self._refuse("is damaged")
            return None
        try:
            kept = torch.load(self._path, map_location=self._device, weights_only=True)
        # The digest matches, so another version of torch has written the file.
        except Exception as error:
            self._refuse(f"can't be read ({first_line(error)})")
            return None
        if kept["key"] != self._key:
            self._refuse("is of a run with other settings, inputs or software")
            return None
        return kept["state"]

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self._path.unlink(missing_ok=True)

    def _is_whole(self) -> bool:
        size = self._path.stat().st_size - DIGEST_BYTES
        if size < 0:
            return False
        digest = hashlib.sha256()
        with self._path.open("rb") as stream:
            while size > 0 and (part := stream.read(min(size, 1 << 20))):
                digest.update(part)
                size -= len(part)
            return stream.read() == digest.digest()

    def _refuse(self, why: str) -> None:
        print(f"{self._path} {why}: training starts over", file=sys.stderr)
