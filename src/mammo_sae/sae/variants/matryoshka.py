"""Matryoshka BatchTopK (Bussmann et al. 2025, arXiv 2503.17547): nested dictionaries.

The latents are cut into groups. With u_hat^m the reconstruction from the first m groups,

    L = mean over m, cells and channels of (u_hat^m - u)^2

The first groups must therefore reconstruct the input without the later groups. Later groups add
detail instead of splitting the features of the first groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mammo_sae.sae import sparse
from mammo_sae.sae.variants.base import Start
from mammo_sae.sae.variants.batch_topk import BatchTopK

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining


class Matryoshka(BatchTopK):
    """A Matryoshka SAE in training."""

    def __init__(self, settings: SaeTraining, start: Start) -> None:
        super().__init__(settings, start)
        shares = torch.tensor(self.settings.groups, dtype=torch.float64)
        ends = (shares.cumsum(0) / shares.sum() * self.latents).round().long()
        latent = torch.arange(self.latents)
        self._group = torch.bucketize(latent, ends, right=True).to(start.cells.device)

    def reconstruction(self, u: Tensor, index: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Set `.grad` to the gradients of L; return L and the residual [n, d] with all groups."""
        p, count = self.parameters, len(self.settings.groups)
        atoms = self.preactivations.rounded(self.atoms)
        group = self._group[index]
        parts = [value * (group == g) for g in range(count)]
        residual = p["decoder_bias"] - u
        loss = torch.zeros((), device=u.device)
        outers = []
        for part in parts:
            residual = residual + sparse.combine(index, part, atoms)
            loss += residual.square().mean() / count
            outers.append(residual * (2 / (count * residual.numel())))
        p["decoder_bias"].grad = torch.stack(outers).sum(dim=(0, 1))
        by_latent = sparse.ByLatent.of(index, self.latents)
        self.atoms.grad = torch.zeros_like(self.atoms)
        inner = torch.zeros_like(value)
        outer = torch.zeros_like(u)
        # A group's gradient is the sum over all reconstructions that contain the group.
        for g in reversed(range(count)):
            outer += outers[g]
            low = self.preactivations.rounded(outer)
            self.atoms.grad += by_latent.sum(parts[g], low)
            inner += sparse.dots(low, atoms, index).mul_(parts[g] > 0)
        p["encoder_weight"].grad = by_latent.sum(inner, self.preactivations.cells(u))
        p["encoder_bias"].grad = by_latent.total(inner)
        return loss, residual


VARIANT = Matryoshka
