"""Which module trains which variant: the one of its name.

A module is imported when it is asked for, and none is named here. So the code that an SAE's
training depends on is that of its own variant, and a new variant makes no other's SAEs stale.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining
    from mammo_sae.sae.variants.base import Start, TrainingSAE


def variant_module(name: str) -> str:
    """Return the dotted name of the module that trains the variant `name`."""
    return f"{__package__}.{name}"


def training_sae(settings: SaeTraining, start: Start) -> TrainingSAE:
    """Return a new SAE in training, at its initial weights."""
    return _class_of(settings)(settings, start)


def is_raw(settings: SaeTraining) -> bool:
    """Return whether a variant sees embeddings neither centred nor scaled."""
    return _class_of(settings).raw


def _class_of(settings: SaeTraining) -> Any:
    """Return the class that trains a variant, which its module calls `VARIANT`."""
    return import_module(variant_module(settings.variant.name)).VARIANT
