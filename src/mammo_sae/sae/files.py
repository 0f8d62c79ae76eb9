"""The files of a trained SAE, read without torch.

Importing torch takes longer than many analyses. Analyses that need only an SAE's atoms and bias
read them here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from mammo_sae.errors import StoreError
from mammo_sae.stores.checksums import file_digest, without_checksum
from mammo_sae.stores.publish import read_plain_json

FORMAT = 2
KIND = "sae"
DESCRIPTION = "sae.json"
ROWS = 4096  # atoms of a file in memory at a time, besides the result


def read_decoder(description: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return an SAE's atoms [h, d] and its decoder's bias [d], float32.

    `description` is the SAE's `sae.json`, or the folder that holds it with the weights. The weights
    of the encoder are not read.

    Raises
    ------
    StoreError
        If there is no SAE, or a file is missing, damaged, or does not match its description.
    """
    content, weights = checked_files(description)
    with _opened(weights) as file:
        bias = file.get_tensor("decoder_bias")
    return _atoms(weights, np.ones(content["latents"], bool), content["channels"]), bias


def read_atoms(description: str | Path, chosen: np.ndarray | None = None) -> np.ndarray:
    """Return float32 [m, d]: the atoms of the latents `chosen` (bool [h]; None: all) of an SAE.

    Only these atoms are in memory, and no weights of the encoder.

    Raises
    ------
    StoreError
        If there is no SAE, a file is damaged, or `chosen` is for another number of latents.
    """
    content, weights = checked_files(description)
    h = content["latents"]
    chosen = np.ones(h, bool) if chosen is None else chosen
    if len(chosen) != h:
        raise StoreError(f"{description} has {h} latents, not {len(chosen)}; encode again")
    return _atoms(weights, chosen, content["channels"])


def _atoms(weights: Path, chosen: np.ndarray, channels: int) -> np.ndarray:
    result = np.empty((int(chosen.sum()), channels), np.float32)
    done, h = 0, len(chosen)
    for start in range(0, h, ROWS):
        rows = slice(start, min(start + ROWS, h))
        # The file is mapped anew for each block, so that pages already read leave the memory.
        with _opened(weights) as file:
            part = file.get_slice("decoder_weight")[rows][chosen[rows]]
        result[done : done + len(part)] = part
        done += len(part)
    return result


@contextmanager
def _opened(weights: Path) -> Iterator[Any]:
    try:
        with safe_open(weights, "numpy") as file:
            yield file
    except SafetensorError as error:
        raise StoreError(f"{weights} can't be read ({error}); train the SAE again") from None


def read_files(description: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the content of an SAE's `sae.json`, and its weights by name.

    `description` is the `sae.json`, or the folder that holds it with the weights.

    Raises
    ------
    StoreError
        If there is no SAE, or a file is missing, damaged, or does not match its description.
    """
    content, weights = checked_files(description)
    try:
        return content, load_file(weights)
    except SafetensorError as error:
        raise StoreError(f"{weights} can't be read ({error}); train the SAE again") from None


def checked_files(description: str | Path) -> tuple[dict[str, Any], Path]:
    """Return the content of an SAE's `sae.json`, and the path of its weights.

    `description` is the `sae.json`, or the folder that holds it with the weights.

    Raises
    ------
    StoreError
        If there is no SAE, or a file is missing or does not match its description.
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
    return content, weights
