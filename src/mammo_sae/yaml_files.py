"""Strict reading of YAML configurations: only values that JSON has too are accepted.

YAML silently accepts values that a configuration can't have: it reads a name as a date, takes the
last of two equal keys, and expands a few lines of aliases to gigabytes. This module refuses all of
these and names the path of the key.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from mammo_sae.errors import InputError

MOST_BYTES = 1 << 20
MOST_VALUES = 20_000
MOST_DEPTH = 32
# Array sizes and seeds up to this number are valid on every machine.
LARGEST = 2**31 - 1


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as Snakemake reads it, but equal keys in one mapping are refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, Any] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key.value!r} stands here a second time; remove one",
                    key.start_mark,
                )
            seen[key.value] = key
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML or JSON file.

    Raises
    ------
    InputError
        If it is missing, can't be read, or has a value that no configuration may have.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"configuration {path} is missing; give the path of a YAML file") from None
    except OSError as error:
        raise InputError(
            f"configuration {path} can't be read: {error.strerror}; give the path of a YAML file"
        ) from None
    if len(raw) > MOST_BYTES:
        raise InputError(
            f"configuration {path} is larger than {MOST_BYTES} bytes; give the path of a YAML file"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"configuration {path} is not UTF-8 text; save it as UTF-8") from None
    try:
        content = _parsed(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise InputError(f"configuration {path},{where}: {problem}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"configuration {path} is not YAML: {what[:200]}") from None
    if not isinstance(content, dict):
        raise InputError(f"configuration {path} must hold keys and values at its top level")
    return plain(content, f"configuration {path}")


def _parsed(text: str) -> Any:
    # Like Snakemake, read JSON as JSON. There 1e-4 is a number.
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=_different)
        except json.JSONDecodeError:
            pass
    return yaml.load(text, _Loader)


def _different(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for position, (key, _) in enumerate(pairs):
        if key in [other for other, _ in pairs[:position]]:
            raise ValueError(f"the key {key!r} stands here a second time; remove one")
    return dict(pairs)


def plain(content: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Return a copy of `content` with only JSON values: no dates, no aliases, no NaN.

    Raises
    ------
    InputError
        If keys have other values. The error names each of them.
    """
    complaints: list[str] = []
    budget = iter(range(MOST_VALUES))

    def copied(value: Any, path: tuple[str, ...]) -> Any:
        if next(budget, None) is None:
            raise InputError(f"{where}: more than {MOST_VALUES} values; do aliases repeat?")
        if len(path) > MOST_DEPTH:
            raise InputError(
                f"{where}: {'.'.join(path[:4])}...: nested more than {MOST_DEPTH} deep; does an "
                "alias hold itself?"
            )
        if isinstance(value, Mapping):
            return {k: copied(v, (*path, k)) for k, v in _text_keys(value, path, complaints)}
        if isinstance(value, list | tuple):
            return [copied(item, (*path, str(i))) for i, item in enumerate(value)]
        problem = _problem(value)
        if problem:
            complaints.append(f"{'.'.join(path)}: {problem}")
        return value

    result = copied(content, ())
    if complaints:
        raise InputError(f"{where}: {'; '.join(complaints)}")
    return result


def _text_keys(
    value: Mapping[Any, Any], path: Sequence[str], complaints: list[str]
) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        problem = _problem(key) if isinstance(key, str | date) else None
        if isinstance(key, str) and not problem:
            yield key, item
            continue
        problem = problem or f"YAML reads the key {_shown(key)} as no text; put it in quotes"
        complaints.append(": ".join(filter(None, [".".join(path), problem])))


def _problem(value: Any) -> str | None:
    """Return the reason why a value is not allowed in a configuration, or None."""
    if isinstance(value, date):
        return f"YAML reads {value.isoformat()} as a date; put it in quotes"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no number; give one"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST:
        return f"the number is beyond {LARGEST}, the largest that any key takes; lower it"
    if isinstance(value, str):
        odd = next((c for c in value if unicodedata.category(c) in {"Cc", "Cs", "Cn"}), None)
        if odd is not None:
            return f"the text holds the character {odd!r}; remove it"
        if len(value) > 10_000:
            return f"the text is {len(value)} characters long; shorten it"
    elif not (value is None or isinstance(value, bool | int | float)):
        return f"YAML reads this as {type(value).__name__}, which no key takes; quote text"
    return None


def _shown(key: Any) -> str:
    text = json.dumps(key) if isinstance(key, bool | int | float) else repr(key)
    return text if len(text) <= 40 else f"{text[:37]}..."


def laid_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with values replaced by those of `above`, key by key, as Snakemake does."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = laid_over(dict(merged[key]), value)
        else:
            merged[key] = value
    return merged
