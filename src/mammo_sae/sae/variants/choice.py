"""Finds the module of a variant by the variant's name, here or in another package.

A variant's module is imported only when the variant is used, and this file names no variant. So the
digest of the code that trains an SAE covers only the variant of this SAE. A new variant therefore
makes no earlier result stale (docs/staleness.md).
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mammo_sae.extensions import VARIANTS, module_added

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining
    from mammo_sae.sae.variants.base import Start, TrainingSAE
    from mammo_sae.sae.variants.computed import ComputedSAE


def variant_module(name: str) -> str:
    """Return the dotted name of the module that trains the variant `name`.

    Raises
    ------
    InputError
        If neither this package nor another installed package has the variant.
    """
    own = f"{__package__}.{name}"
    return own if find_spec(own) else module_added(VARIANTS, name)


def training_sae(settings: SaeTraining, start: Start) -> TrainingSAE:
    """Return a new SAE in training, at its initial weights."""
    return _class_of(settings)(settings, start)


def computed_sae(settings: SaeTraining, start: Start) -> ComputedSAE:
    """Return an SAE whose weights are computed at once from the cells of `start`.

    Raises
    ------
    InputError
        If the settings do not fit the number of channels.
    """
    return _class_of(settings)(settings, start)


def takes_steps(settings: SaeTraining) -> bool:
    """Return whether the variant is trained step by step, not computed at once."""
    return _class_of(settings).takes_steps


def is_raw(settings: SaeTraining) -> bool:
    """Return whether the variant is trained on raw embeddings, neither centred nor scaled."""
    return _class_of(settings).raw


def _class_of(settings: SaeTraining) -> Any:
    """Return the class that trains the variant: `VARIANT` in the variant's module."""
    return import_module(variant_module(settings.variant.name)).VARIANT
