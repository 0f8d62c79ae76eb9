"""Finds the module of an encoder source by the source's kind, here or in another package.

A module is imported only when its kind is used, and this file names none of them. So the digest of
an encoder's import covers only its own kind of source.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mammo_sae.extensions import ENCODERS, module_added

if TYPE_CHECKING:
    from torch import Tensor

    from mammo_sae.encoders.description import EncoderDescription


def source_module(kind: str) -> str:
    """Return the dotted name of the module that reads encoder sources of a kind.

    Raises
    ------
    InputError
        If there is none, here or in another package.
    """
    own = f"{__package__}.{kind}"
    return own if find_spec(own) else module_added(ENCODERS, kind)


def read_source(source: Any) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights of a source, as `mammo_sae.encoders.network.Network` has them.

    Raises
    ------
    InputError
        If the source is missing, damaged, of another architecture or SHA-256, or holds more than
        weights.
    """
    return import_module(source_module(source.kind)).read(source)
