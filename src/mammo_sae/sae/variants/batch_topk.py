"""BatchTopK (Bussmann et al. 2024, arXiv 2412.06410): k latents per cell on average.

This variant differs from TopK in the choice of active latents. The n k largest pre-activations of a
batch of n cells are active, so a cell may have more or fewer than k active latents. In training a
cell has at most `SPREAD` k. After training, a latent is active where its pre-activation is above a
threshold, which is the same for all latents. The threshold is the running mean of each batch's
smallest active pre-activation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.variants.base import Start
from mammo_sae.sae.variants.topk import TopK

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining

SPREAD = 4
MEMORY = 0.99  # weight of the previous value in the running mean


class BatchTopK(TopK):
    """A BatchTopK SAE in training."""

    def __init__(self, settings: SaeTraining, start: Start) -> None:
        super().__init__(settings, start)
        self.buffers["threshold"] = torch.full((), -1.0, device=start.cells.device)

    def select(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return index and value [n, SPREAD k] of the active latents. See `TopK.select`."""
        k = self.settings.k
        index, value = self.candidates(u, min(SPREAD * k, self.latents))
        smallest = value.flatten().topk(k * len(u), sorted=False).values.amin()
        value *= value >= smallest
        threshold = self.buffers["threshold"]
        kept = torch.where(threshold < 0, smallest, threshold)
        threshold.copy_(MEMORY * kept + (1 - MEMORY) * smallest)
        return index, value

    def folded(self, mean: Tensor, scale: float) -> SparseAutoencoder:
        """Return the SAE for raw embeddings, with the learned threshold."""
        threshold = self.buffers["threshold"].clamp(min=0).expand(self.latents).clone()
        return self.fold(mean, scale, threshold=threshold)


VARIANT = BatchTopK
