"""The embedding's own channels as latents, a control without learning.

With m the mean of the training cells, e_c the c-th unit vector and d channels:

    D_c = e_c,  D_(d + c) = -e_c,  p_j = D_j . (x - m),  c = 0 ... d - 1
    z_j = p_j for the k largest p_j above 0, else 0
    x_hat = sum_j z_j D_j + m

So a cell is described by the k channels that deviate most from the mean, each with its sign.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mammo_sae.sae.variants.computed import ComputedSAE, signed

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining


class Channels(ComputedSAE):
    """The channels and their negatives, centred on the mean."""

    def computed(self, settings: SaeTraining, cells: Tensor) -> dict[str, Tensor]:
        """Return the weights, 2 d latents. Of the cells, only number of channels and device count.

        The centring is part of the cells already.
        """
        return signed(torch.eye(cells.shape[1], device=cells.device))


VARIANT = Channels
