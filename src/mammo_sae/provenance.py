"""The part of a step's record that is known before the step runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from mammo_sae.settings import Settings, canonical_json

SUFFIX = ".provenance.json"
PATH_SETTINGS = frozenset({"source", "external", "key_file"})


class Provenance(Settings):
    """The step, its settings as JSON, the digest of its code, and its inputs' digests by path."""

    step: str
    config: str
    code: str
    inputs: dict[str, str] = Field(default_factory=dict)

    def is_of(self, record: Mapping[str, Any]) -> bool:
        """Return whether a record has the same step, settings, code and inputs.

        The record does not list inputs that its own step wrote, so it may have fewer inputs.
        """
        same = self.recorded().items() <= record.items()
        return same and record["inputs"].items() <= self.inputs.items()

    def recorded(self) -> dict[str, str]:
        """Return step, settings and code as a record contains them: without private paths."""
        config = public_settings(json.loads(self.config))
        return {"step": self.step, "config": config, "code": self.code}


def record_path(first_output: Path) -> Path:
    """Return the path of a step's record, which is next to the first file that the step wrote."""
    return first_output.with_name(first_output.name + SUFFIX)


def public_settings(settings: Any) -> str:
    """Return settings, as read from JSON, without paths of sources and keys.

    The name of a folder may identify the owner of the data, and results are shared with more people
    than sources.
    """

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: stripped(v) for k, v in value.items() if not is_path(k, v)}
        return value

    def is_path(key: str, value: Any) -> bool:
        return key in PATH_SETTINGS and not isinstance(value, dict)  # an encoder's source is a dict

    return canonical_json(stripped(settings))
