"""The state of an unfinished training run, to go on from after a kill."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mammo_sae.settings import canonical_json
from mammo_sae.stores.publish import atomic_file


class Checkpoint:
    """A file that holds the state of one run, and is taken for no other's.

    Parameters
    ----------
    path
        The file.
    identity
        Everything that decides the run's result, as JSON values or settings.
    device
        Where the run computes; it too decides the result's bytes, as do PyTorch and its threads.
    """

    def __init__(self, path: Path, identity: Sequence[Any], device: torch.device) -> None:
        self._path = path
        self._device = device
        whole = [*identity, device.type, torch.__version__, torch.get_num_threads()]
        self._key = hashlib.sha256(canonical_json(whole).encode()).hexdigest()

    def save(self, state: dict[str, Any]) -> None:
        """Keep `state`, in place of what was kept before."""
        with atomic_file(self._path, result=False) as aside:
            torch.save({"key": self._key, "state": state}, aside)

    def load(self) -> dict[str, Any] | None:
        """Return the state kept for this very run, or None: there is none, or it is unreadable."""
        try:
            kept = torch.load(self._path, map_location=self._device, weights_only=True)
            return kept["state"] if kept["key"] == self._key else None
        except (OSError, EOFError, KeyError, RuntimeError, TypeError, pickle.UnpicklingError):
            return None

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self._path.unlink(missing_ok=True)
