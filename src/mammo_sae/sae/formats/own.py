"""The folder of an SAE that was trained here: `sae.json` and `sae.safetensors`.

The SAE of one encoder can so be applied to another encoder with the same number of channels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mammo_sae.sae.model import SparseAutoencoder

CONFIG, WEIGHTS = "sae.json", "sae.safetensors"


def read(folder: Path) -> SparseAutoencoder:
    """Return the SAE of a folder, without what its file says of the run that trained it.

    Raises
    ------
    StoreError
        If a file is missing, damaged, or does not match its description.
    """
    return replace(SparseAutoencoder.load(folder), description={})
