"""What other packages add: datasets, SAE variants and encoder sources, found by entry point.

A package adds one by an entry point. The entry point's name is what configurations call the
addition. Its value is the model of the addition's settings, a subclass of `Settings` whose class
attribute `MODULE` is the dotted name of the module that does the work. Configurations are read
without torch, so the two stand in modules of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, get_args

from pydantic import SerializeAsAny, TypeAdapter, ValidationInfo, WrapValidator

from mammo_sae.errors import InputError
from mammo_sae.settings import Settings, canonical_json

COHORTS = "mammo_sae.cohorts"
VARIANTS = "mammo_sae.variants"
ENCODERS = "mammo_sae.encoders"


@cache
def added(group: str) -> dict[str, Any]:
    """Return name -> model of settings of what other packages add to `group`.

    Raises
    ------
    InputError
        If one can't be imported or is no model of settings with `MODULE`, naming it.
    """
    found: dict[str, Any] = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        where = f"entry point {point.name} = {point.value} of the group {group}"
        try:
            model = point.load()
        except Exception as error:
            raise InputError(
                f"{where} can't be imported ({type(error).__name__}: {error}); repair or remove "
                "the package that has it"
            ) from None
        if not (isinstance(model, type) and issubclass(model, Settings)):
            raise InputError(f"{where} must be a subclass of mammo_sae.settings.Settings")
        if not isinstance(getattr(model, "MODULE", None), str):
            raise InputError(f"{where} must have MODULE, the name of the module that does the work")
        own = [get_args(field.annotation)[:1] for field in model.model_fields.values()]
        if (point.name,) not in own:
            raise InputError(f"{where}: no key of the settings is the literal {point.name!r}")
        if point.name in found:
            raise InputError(f"{where} has the name of another one; remove one of the packages")
        found[point.name] = model
    return found


def module_added(group: str, name: str) -> str:
    """Return the dotted name of the module that does the work of an addition.

    Raises
    ------
    InputError
        If no package adds it.
    """
    models = added(group)
    if name not in models:
        raise InputError(f"no installed package adds {name!r} by an entry point of {group}")
    return models[name].MODULE


def or_added(union: Any, group: str) -> Any:
    """Return a union of models of settings that also takes what other packages add to it.

    Other packages are imported only for a name that no model of the union has: their settings may
    import this package's. A name that this package has stays its own.

    Parameters
    ----------
    union
        ``Annotated[A | B | ..., Field(discriminator=...)]``.
    group
        The group of entry points.
    """
    key, names = get_args(union)[1].discriminator, set(tags(union))
    own: TypeAdapter[Any] = TypeAdapter(union)

    def validate(value: Any, validate_union: Any, info: ValidationInfo) -> Any:
        name = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
        model = None if name in names else added(group).get(name)
        if info.mode == "json":
            # This function gets JSON as Python objects. In strict mode a list would not do for
            # a tuple then.
            chosen = own if model is None else TypeAdapter(model)
            return chosen.validate_json(canonical_json(value))
        return validate_union(value) if model is None else model.model_validate(value)

    return Annotated[union, WrapValidator(validate), SerializeAsAny()]


def tags(union: Any) -> list[str]:
    """Return the names of the models of a union ``Annotated[A | B | ..., Field(discriminator)]``.

    A model's name is the literal that its discriminator may hold.
    """
    members, field = get_args(union)[:2]
    kinds = [model.model_fields[field.discriminator].annotation for model in get_args(members)]
    return [get_args(kind)[0] for kind in kinds]
