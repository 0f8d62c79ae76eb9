"""The record of what made a result, kept beside it."""

from __future__ import annotations

from pydantic import Field

from mammo_sae.settings import Settings


class Provenance(Settings):
    """Where a result comes from; written into the result, never compared by Snakemake.

    It is kept apart from the manifest, which holds content alone, so that a step that ran again
    and gave the same content does not make its consumers stale.
    """

    step: str
    config: str
    code: str
    inputs: dict[str, str] = Field(default_factory=dict)
