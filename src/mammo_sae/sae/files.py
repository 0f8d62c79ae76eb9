"""The files of a trained SAE, read without torch.

Importing torch takes longer than many analyses. Analyses that need only an SAE's atoms and bias
read them here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mammo_sae.errors import StoreError
from mammo_sae.stores.checksums import file_digest, without_checksum
from mammo_sae.stores.publish import read_plain_json

FORMAT = 2
KIND = "sae"
DESCRIPTION = "sae.json"


def read_decoder(description: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return an SAE's atoms [h, d] and its decoder's bias [d], float32.

    `description` is the SAE's `sae.json`, or the folder that holds it with the weights.

    Raises
    ------
    StoreError
        If there is no SAE, or a file is missing, damaged, or does not match its description.
    """
    _, tensors = read_files(description)
    return tensors["decoder_weight"], tensors["decoder_bias"]


def read_files(description: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the content of an SAE's `sae.json`, and its weights by name.

    `description` is the `sae.json`, or the folder that holds it with the weights.

    Raises
    ------
    StoreError
        If there is no SAE, or a file is missing, damaged, or does not match its description.
    """
    description = Path(description)
    if description.is_dir():
        description = description / DESCRIPTION
    if not description.is_file():
        raise StoreError(f"{description} is missing; give the path of a trained SAE")
    # Compare the checksum later: a JSON file that is no SAE would seem to have been changed.
    content = read_plain_json(description) if description.suffix == ".json" else None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise StoreError(
            f"{description} does not describe an SAE; give the path of a {DESCRIPTION}"
        )
    content = without_checksum(content, description)
    if content.get("format") != FORMAT:
        raise StoreError(f"{description} does not have format {FORMAT}; train the SAE again")
    weights = description.with_name(content["weights"])
    if not weights.is_file():
        raise StoreError(f"{weights} is missing; train the SAE again")
    if file_digest(weights) != content["digest"]:
        raise StoreError(
            f"{weights} is not the file that {description} describes; train the SAE again"
        )
    try:
        return content, load_file(weights)
    except SafetensorError as error:
        raise StoreError(f"{weights} can't be read ({error}); train the SAE again") from None
