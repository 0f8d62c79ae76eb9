"""The base class of all settings, and their canonical text.

The settings of each stage are next to its code, and `mammo_sae.config` combines them. Modules of
settings are imported each time the Snakefile is parsed, so they import nothing slow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from mammo_sae.complaints import explain
from mammo_sae.errors import InputError


class Settings(BaseModel):
    """Immutable settings that refuse unknown keys and silent type conversions."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
    )


# Snakemake reads braces as wildcards. The other characters have a meaning in the shell commands
# into which Snakemake writes paths.
UNUSABLE = '{}\\"`$'


def check_path(text: str) -> str:
    """Return the path `text` unchanged, if Snakemake can pass it to every job.

    Raises
    ------
    ValueError
        If the path contains a character that Snakemake can't pass. The error names the character.
    """
    wrong = next((c for c in text if c in UNUSABLE or not c.isprintable()), None)
    if wrong is not None:
        raise ValueError(
            f"{text!r} holds the character {wrong!r}, which Snakemake can't pass on in a path; "
            "use a path without it"
        )
    if text != text.strip() or text.startswith("-"):
        raise ValueError(f"{text!r} begins with '-' or a space, or ends with one; use another path")
    return text


def _path(text: str) -> str:
    if not text.startswith("~"):
        return check_path(text)
    try:
        return check_path(str(Path(text).expanduser()))
    except RuntimeError:
        raise ValueError(
            f"{text!r} names a home folder that is not known; write the whole path"
        ) from None


PathText = Annotated[str, AfterValidator(_path)]
"""The path of a file or folder; `~` at its beginning is the home folder."""


def canonical_json(value: Any) -> str:
    """Return the canonical JSON of `value`: keys sorted, no spaces, defaults of settings filled in.

    Two configurations with the same meaning give the same text, so the text can decide what is
    stale.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
        default=lambda item: item.model_dump(mode="json"),
    )


def parse_settings(model: Any, text: str, where: str) -> Any:
    """Validate JSON `text` as `model`, a Settings class or a union of Settings classes.

    Raises
    ------
    InputError
        If keys are wrong. The error names `where` and every wrong key.
    """
    try:
        return TypeAdapter(model).validate_json(text)
    except ValidationError as error:
        raise InputError(explain(error, where, model)) from None
