"""The EfficientNet-B5 of VersaMammo (arXiv 2509.20271): a state dict of efficientnet-pytorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from mammo_sae.encoders import checkpoints
from mammo_sae.encoders.description import IMAGENET, EncoderDescription

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import VersaMammoSource


def read(source: VersaMammoSource) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights and the description of a source."""
    path = Path(source.path)
    digest = checkpoints.check_sha256(path, source.sha256)
    # The terms are those of https://github.com/fuxianghuang1/VersaMammo in November 2026.
    return checkpoints.folded(path, source.architecture), EncoderDescription(
        kind="pretrained",
        architecture=source.architecture,
        normalisation=IMAGENET,
        source=f"VersaMammo, {path.name}",
        licence="none stated; its publishers no longer share the weights",
        forbids="every use to which its authors have not agreed",
        data="679,911 mammograms of 21 datasets, among them EMBED, RSNA and VinDr-Mammo, of which "
        "the publishers name these three as the pretraining data to download",
        sha256=digest,
    )
