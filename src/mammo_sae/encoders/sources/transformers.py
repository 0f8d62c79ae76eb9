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
    from mammo_sae.encoders.settings import TransformersSource, VisionTransformerSource


def read(source: TransformersSource) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights and the description of a source."""
    folder = Path(source.path)
    return of_folder(source, folder, f"{folder.name}/{WEIGHTS}")


def of_folder(
    source: VisionTransformerSource, folder: Path, origin: str
) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights and the description of the model in `folder`.

    `origin` is what the description says of where the weights come from.
    """
    found = read_folder(folder)
    found.check_pooling(source.pooling)
    digest = checkpoints.check_sha256(folder / WEIGHTS, source.sha256)
    mean, std = read_normalisation(folder, found.kind)
    state = vit.read_weights(folder, found.kind, found.config)
    return state, EncoderDescription(
        kind="pretrained",
        architecture=found.architecture,
        normalisation=Normalisation(scale="full", mean=mean, std=std),
        source=origin,
        licence=source.licence,
        forbids=source.forbids,
        data=source.data,
        sha256=digest,
        pooling=source.pooling,
        parameters={"config": vit.written_out(found.config)},
        software={vit.__name__: code_digest(vit.__name__), "transformers": vit.version()},
    )
