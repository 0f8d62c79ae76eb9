"""Datasets, SAE variants and encoder sources of other packages, found by entry points.

Another package adds a dataset, a variant or a source by an entry point. Configurations use the name
of the entry point. The value of the entry point is the model of the addition's settings, a subclass
of `Settings`. The class attribute `MODULE` of this model is the dotted name of the module that does
the work. Configurations are read without torch, so settings and work are in separate modules.
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
    """Return name -> model of settings for the additions of other packages to `group`.

    Raises
    ------
    InputError
        If an addition can't be imported or is not a model of settings with `MODULE`. The error
        names the addition.
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
            raise InputError(f"{where}: the settings must have a key of Literal[{point.name!r}]")
        if point.name in found:
            raise InputError(f"{where}: another package has the same name; remove one of them")
        found[point.name] = model
    return found


def module_added(group: str, name: str) -> str:
    """Return the dotted name of the module that does the work of an addition.

    Raises
    ------
    InputError
        If no installed package adds `name`.
    """
    models = added(group)
    if name not in models:
        raise InputError(f"no installed package adds {name!r} by an entry point of {group}")
    return models[name].MODULE


def or_added(union: Any, group: str) -> Any:
    """Return a union of models of settings that also accepts the additions of other packages.

    Other packages are imported only for a name that no model of the union has, because their
    settings may import the settings of this package. Another package can't replace a name of this
    package.

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
        # The union itself refuses a name that is not text, for example a list.
        model = added(group).get(name) if isinstance(name, str) and name not in names else None
        if info.mode == "json":
            # This function gets JSON as Python objects. In strict mode a list would not be accepted
            # as a tuple.
            chosen = own if model is None else TypeAdapter(model)
            return chosen.validate_json(canonical_json(value))
        return validate_union(value) if model is None else model.model_validate(value)

    # For type checkers SerializeAsAny is not a class but an alias that takes a type.
    anything = SerializeAsAny()  # type: ignore[type-arg]
    return Annotated[union, WrapValidator(validate), anything]


def tags(union: Any) -> list[str]:
    """Return the names of the models of a union ``Annotated[A | B | ..., Field(discriminator)]``.

    The name of a model is the literal value of its discriminator.
    """
    members, field = get_args(union)[:2]
    kinds = [model.model_fields[field.discriminator].annotation for model in get_args(members)]
    return [get_args(kind)[0] for kind in kinds]
