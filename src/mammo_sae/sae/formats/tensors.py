"""Tensors and configurations from files of other libraries, with checks of names and shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mammo_sae.errors import InputError, first_line
from mammo_sae.weights.files import read_weights

MOST_CONFIG = 16 << 20  # bytes of a configuration


class Tensors:
    """The tensors of one file.

    Parameters
    ----------
    path
        A safetensors file, or a state dict written by torch.save. No code in the file is run.

    Raises
    ------
    InputError
        If the file is missing or damaged, or does not hold a state dict.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found = read_weights(path)
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise InputError(
                f"{path} is no state dict; write one with torch.save(sae.state_dict(), ...)"
            )
        self._found = found

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def names(self) -> list[str]:
        """Return the names of the tensors, sorted."""
        return sorted(self._found)

    def take(self, name: str, *shape: int | None) -> Tensor:
        """Return a tensor as float64.

        Parameters
        ----------
        shape
            Required size of each axis. None: any size from 1 on.

        Raises
        ------
        InputError
            If the tensor is missing, is not of real numbers, has another shape, or is not finite.
        """
        if name not in self._found:
            raise InputError(
                f"{self.path} has no tensor {name!r}, only {', '.join(self.names()[:12]) or 'none'}"
            )
        tensor = self._found[name]
        if not isinstance(tensor, Tensor) or tensor.is_complex():
            raise InputError(f"{self.path}: {name} is no tensor of real numbers; save it as one")
        fits = tensor.dim() == len(shape) and all(
            size >= 1 if wanted is None else size == wanted
            for size, wanted in zip(tensor.shape, shape, strict=True)
        )
        if not fits:
            wanted = tuple("any" if size is None else size for size in shape)
            raise InputError(
                f"{self.path}: {name} has shape {tuple(tensor.shape)}, not {wanted}; "
                "the file does not have the format that its other names suggest"
            )
        tensor = tensor.double()
        if not torch.isfinite(tensor).all():
            raise InputError(f"{self.path}: {name} holds NaN or infinity; save the SAE again")
        return tensor


def read_config(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises
    ------
    InputError
        If the file is missing, too large or not JSON, or does not hold an object.
    """
    try:
        if path.stat().st_size > MOST_CONFIG:
            raise InputError(f"{path} is too large for a configuration; fetch the folder again")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; fetch the whole folder") from None
    except (ValueError, RecursionError) as error:
        reason = first_line(error)
        raise InputError(f"{path} is not readable JSON ({reason}); fetch it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; fetch it again")
    return content


def part(config: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    """Return the object under `key`, or an empty object if the key is missing or null.

    Raises
    ------
    InputError
        If the value is not an object.
    """
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: {key} is {json.dumps(value)[:60]}, not an object; correct it")
    return value


def whole_number(value: Any, what: str) -> int:
    """Return a whole number of at least 1, also if it is written as a float.

    Raises
    ------
    InputError
        If the value is no such number. The message begins with `what`, the name of the value.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value != value // 1 or not 1 <= value < 1 << 31:
        raise InputError(f"{what} is {value!r}, not a whole number of at least 1; correct it")
    return int(value)
