"""A file with a state dict of the package efficientnet-pytorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from mammo_sae.encoders import checkpoints
from mammo_sae.encoders.description import IMAGENET, EncoderDescription

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import EfficientNetSource


def read(source: EfficientNetSource) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights and the description of a source."""
    path = Path(source.path)
    digest = checkpoints.check_sha256(path, source.sha256)
    return checkpoints.folded(path, source.architecture), EncoderDescription(
        kind="pretrained",
        architecture=source.architecture,
        normalisation=IMAGENET,
        source=path.name,
        licence=source.licence,
        forbids=source.forbids,
        data=source.data,
        sha256=digest,
    )
