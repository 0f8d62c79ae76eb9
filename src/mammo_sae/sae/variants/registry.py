"""Which class trains which variant."""

from __future__ import annotations

import torch

from mammo_sae.sae.settings import SaeTraining, TopKVariant
from mammo_sae.sae.variants.base import Trainee
from mammo_sae.sae.variants.topk import TopK

TRAINEES: dict[type, type[Trainee]] = {TopKVariant: TopK}


def trainee(settings: SaeTraining, channels: int, device: torch.device) -> Trainee:
    """Return a new SAE in training, at its initial weights."""
    return TRAINEES[type(settings.variant)](
        settings.variant, settings.latents, channels, device, settings.seed
    )
