"""Principal components as latents, a control that is learnt in one step of linear algebra.

With m the mean of the training cells and v_1, v_2, ... the eigenvectors of the covariance of the
sampled training cells, by falling eigenvalue:

    D_i = v_(i + 1),  D_(n + i) = -v_(i + 1),  p_j = D_j . (x - m),  i = 0 ... n - 1
    z_j = p_j for the k largest p_j above 0, else 0
    x_hat = sum_j z_j D_j + m

n is the number of channels, or half the number of latents if that is smaller. An eigenvector's
sign is arbitrary. Here its entry of largest absolute value is positive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mammo_sae.sae.variants.computed import ComputedSAE, signed

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining


class PCA(ComputedSAE):
    """The principal components and their negatives, centred on the mean."""

    def computed(self, settings: SaeTraining, cells: Tensor) -> dict[str, Tensor]:
        """Return the weights of the first components of cells [m, d]."""
        count = min(cells.shape[1], settings.latents // 2)
        return signed(components(cells)[:count].to(cells.device))


def components(cells: Tensor) -> Tensor:
    """Return the principal components [d, d] of cells [m, d] as rows, by falling eigenvalue.

    They are computed in float64 on the CPU and returned there as float32.
    """
    centred = cells.cpu().double()
    centred = centred - centred.mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.t() @ centred / len(centred))
    found = vectors.t().flip(0)
    largest = found.gather(1, found.abs().argmax(dim=1, keepdim=True))
    return (found * largest.sign()).float()


VARIANT = PCA
