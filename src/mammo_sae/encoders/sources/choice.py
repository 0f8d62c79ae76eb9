"""Finds the module of an encoder source by the source's kind, here or in another package.

The module of a kind is imported only when the kind is used, and this file names no kind. So the
digest of the code that imports an encoder covers only the kind of this encoder's source.
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
        If neither this package nor another installed package has the kind.
    """
    own = f"{__package__}.{kind}"
    return own if find_spec(own) else module_added(ENCODERS, kind)


def read_source(source: Any) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights of a source, as `mammo_sae.encoders.network.Network` has them.

    Raises
    ------
    InputError
        If the source is missing or damaged, has another architecture or SHA-256 than configured, or
        has unexpected tensors.
    """
    return import_module(source_module(source.kind)).read(source)
