"""Error messages about settings: each names the path of a wrong key and its allowed values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

# The words of a message for each of pydantic's types of errors.
MUST_BE = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "string_too_long": "at most {max_length} characters long",
}
# The keys that choose a member of a union.
TAGS = ("kind", "name", "preprocessing")
PATTERNS = {
    "^[A-Za-z0-9][A-Za-z0-9_-]*$": "letters, digits, - and _, a letter or digit first",
    "^[a-z][a-z0-9_]*$": "lower-case letters, digits and _, a letter first",
    "^[0-9a-f]{64}$": "64 digits of a SHA-256, 0-9 and a-f",
}
# An error whose message begins with keys below the key where it was found.
BELOW = "keys_below"


def explain(error: ValidationError, where: str, model: Any) -> str:
    """Return one sentence that names the wrong keys of `where` and the allowed values of each.

    `model` is the requested type. Its keys are the candidates for a misspelt key.
    """
    return f"{where}: " + "; ".join(complaints(error, model))


def complaints(error: ValidationError, model: Any) -> list[str]:
    """Return one complaint per wrong key, each beginning with the key's path."""
    found = []
    for item in error.errors(include_url=False):
        written, types = _path(item["loc"], model)
        key = ".".join(written)
        text = _complaint(item, types)
        if item["type"] == BELOW:
            found += [f"{key}.{part}" if key else part for part in item["ctx"]["parts"]]
        elif item["type"] in {"union_tag_invalid", "union_tag_not_found"}:
            # A value that is not a mapping has no tag that could be wrong.
            tag = f".{_tag(item, types)}" if isinstance(item["input"], Mapping) else ""
            found.append(f"{key}{tag}: {text}")
        else:
            # A message about several keys names these keys itself.
            found.append(f"{key}: {text}" if key else text)
    return found


def below(parts: Sequence[str]) -> PydanticCustomError:
    """Return an error with the messages about keys below the key that is validated."""
    return PydanticCustomError(BELOW, "several keys", {"parts": list(parts)})


def nearest(word: str, known: Sequence[str]) -> str:
    """Return "; did you mean 'x'?" for the known word most similar to `word`, or no text."""
    close = get_close_matches(str(word), [str(name) for name in known], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def listed(words: Sequence[object], last: str = "or") -> str:
    """Return words joined as "a, b or c"."""
    *most, end = [str(word) for word in words]
    return f"{', '.join(most)} {last} {end}" if most else end


def _complaint(item: Any, types: list[Any]) -> str:
    kind, given, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind == "extra_forbidden":
        known = [name for parent in types for name in _fields(parent)]
        return f"unknown key; remove it or correct its spelling{nearest(item['loc'][-1], known)}"
    if kind == "missing":
        return "missing; give it a value"
    if kind == "literal_error":
        choices = [value for parent in types for value in _literals(parent)]
        return _one_of(choices, given)
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        if not isinstance(given, Mapping):
            return f"must be keys and values, got {_shown(given)}"
        tag = _tag(item, types)
        choices = list(dict.fromkeys(v for t in types for v in _tags(t, tag)))
        return _one_of(choices, given.get(tag))
    if kind == "too_short":
        return f"must hold {context['min_length']} or more, holds {context['actual_length']}"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return f"must be {PATTERNS.get(pattern, f'text like {pattern}')}, got {_shown(given)}"
    if kind == "value_error":
        message = item["msg"].removeprefix("Value error, ")
        return message[:1].lower() + message[1:]
    if kind in MUST_BE:
        return f"must be {MUST_BE[kind].format(**context)}, got {_shown(given)}{_hint(kind, given)}"
    message = item["msg"].replace("Input should be", "must be")
    return f"{message[:1].lower()}{message[1:]}, got {_shown(given)}"


def _tag(item: Any, types: Sequence[Any]) -> str:
    """Return the key that chooses a member of the union of `types`."""
    named = item["ctx"]["discriminator"].strip("'")
    return next((tag for tag in (named, *TAGS) if any(_tags(t, tag) for t in types)), named)


def _one_of(choices: Sequence[Any], given: Any) -> str:
    if not choices:
        return f"has no such value, got {_shown(given)}"
    if given is None:
        return f"missing; it must be {listed(choices)}"
    return f"must be {listed(choices)}, got {_shown(given)}{nearest(given, choices)}"


def _shown(value: Any) -> str:
    """Return a value in YAML on one line, shortened if it is long."""
    try:
        text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _hint(kind: str, given: Any) -> str:
    if isinstance(given, str) and kind in {"float_type", "int_type"}:
        try:
            number = float(given)
        except ValueError:
            return ""
        text = f"{number:e}" if "e" in given.lower() else f"{number}"
        if kind == "int_type" and number.is_integer():
            text = str(int(number))
        return f"; YAML reads it as text, write {yaml_number(text)}"
    if kind == "string_type" and isinstance(given, int | float):
        return "; put it in quotes"
    return ""


def yaml_number(text: str) -> str:
    """Return `text` in the form that YAML 1.1 reads as a number, with a point in the mantissa."""
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    mantissa = mantissa.rstrip("0")
    mantissa = mantissa + "0" if mantissa.endswith(".") else mantissa
    return f"{mantissa}e{int(exponent):+d}"


def _path(location: Sequence[Any], model: Any) -> tuple[list[str], list[Any]]:
    """Return the keys of a location as the user wrote them, and the types allowed there.

    For an unknown key, the types are those of the mapping that contains it. Pydantic adds the
    chosen member of a union and other steps between the keys; these are left out.
    """
    types, written = list(_members(model)), []
    for step in location:
        chosen = [kind for kind in types if _is_member(kind, step)]
        if chosen and not any(step in _fields(kind) for kind in types):
            types = chosen
            continue
        if isinstance(step, str) and (step.startswith("function-") or step == "[key]"):
            continue
        written.append(str(step))
        found = [kind for parent in types for kind in _below(parent, step)]
        types = found or types
    return written, types


def _members(model: Any) -> Iterator[Any]:
    """Yield the members of a union, or the type itself if it is not a union."""
    origin = get_origin(model)
    if origin is Annotated:
        yield from _members(get_args(model)[0])
    elif origin in (Union, UnionType):
        for member in get_args(model):
            yield from _members(member)
    else:
        yield model


def _is_member(kind: Any, step: Any) -> bool:
    """Return whether `step` of a location is the name or the tag of a member of a union."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return False
    return step == kind.__name__ or any(step in _tags(kind, tag) for tag in TAGS)


def _fields(kind: Any) -> list[str]:
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    return list(kind.model_fields) if is_model else []


def _tags(kind: Any, tag: str) -> list[Any]:
    if tag not in _fields(kind):
        return []
    return _literals(kind.model_fields[tag].annotation)


def _literals(kind: Any) -> list[Any]:
    return [v for m in _members(kind) if get_origin(m) is Literal for v in get_args(m)]


def _below(parent: Any, step: Any) -> Iterator[Any]:
    """Yield the types that a value of the type `parent` may have at `step`, a key or an index."""
    if step in _fields(parent):
        yield from _members(parent.model_fields[step].annotation)
    elif get_origin(parent) is dict:
        yield from _members(get_args(parent)[1])
    elif get_origin(parent) in (list, tuple):
        yield from _members(get_args(parent)[0])
