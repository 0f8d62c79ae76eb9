"""Step: import the weights of a pretrained encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mammo_sae.encoders.network import save_encoder
from mammo_sae.encoders.sources.choice import read_source

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import PretrainedSettings


def run(settings: PretrainedSettings, *, weights: Path, description: Path) -> list[Path]:
    """Convert a pretrained encoder to the form that every later step reads.

    Parameters
    ----------
    settings
        Source of the weights.
    weights, description
        The files to write: ``encoder.safetensors`` and, last, ``encoder.json``.

    Raises
    ------
    InputError
        If the source is missing or damaged, has another architecture or SHA-256 than configured, or
        has unexpected tensors. Nothing is written then.
    """
    state, details = read_source(settings.source)
    save_encoder(state, details, weights, description)
    return [weights, description]
