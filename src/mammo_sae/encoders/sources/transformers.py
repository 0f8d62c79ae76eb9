"""A folder in the form of `transformers` that holds a vision transformer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from mammo_sae.digests import code_digest
from mammo_sae.encoders import checkpoints
from mammo_sae.encoders.description import EncoderDescription, Normalisation
from mammo_sae.encoders.networks import vit
from mammo_sae.encoders.plans.vit import WEIGHTS, read_folder, read_normalisation

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import TransformersSource


def read(source: TransformersSource) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights and the description of a source."""
    folder = Path(source.path)
    found = read_folder(folder)
    digest = checkpoints.check_sha256(folder / WEIGHTS, source.sha256)
    mean, std = read_normalisation(folder, found.kind)
    state = vit.read_weights(folder, found.kind, found.config)
    return state, EncoderDescription(
        kind="pretrained",
        architecture=source.architecture,
        normalisation=Normalisation(scale="full", mean=mean, std=std),
        source=f"{folder.name}/{WEIGHTS}",
        licence=source.licence,
        forbids=source.forbids,
        data=source.data,
        sha256=digest,
        pooling=source.pooling,
        parameters={"config": vit.written_out(found.config)},
        software={vit.__name__: code_digest(vit.__name__), "transformers": vit.version()},
    )
