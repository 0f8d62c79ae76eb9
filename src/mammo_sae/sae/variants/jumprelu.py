"""JumpReLU (Rajamanoharan et al. 2024, arXiv 2407.14435) with a target L0.

    p = u W^T + b_e,  z_j = p_j where p_j > theta_j, else 0,  theta = exp(log_threshold)
    u_hat = z D + b_d
    loss = mean of (u_hat - u)^2 + l0_weight (L0 / k - 1)^2,  L0 = mean over cells of #{z_j > 0}

z_j jumps at theta_j, so its derivative with respect to theta_j is 0 or infinite. Straight-through
estimates replace it (section 3 of the paper), with K(t) = 1 for |t| < 1/2, else 0, and bandwidth
eps:

    dz_j / dtheta_j  = -(theta_j / eps) K((p_j - theta_j) / eps)
    d L0 / dtheta_j  = -(1 / eps) K((p_j - theta_j) / eps), averaged over cells
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.variants.base import Start, Step, TrainingSAE

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining


class JumpReLU(TrainingSAE):
    """A JumpReLU SAE in training."""

    def __init__(self, settings: SaeTraining, start: Start) -> None:
        super().__init__(settings, start)
        threshold = torch.full_like(
            self.parameters["encoder_bias"], math.log(self.settings.threshold)
        )
        self.parameters["log_threshold"] = threshold

    @torch.no_grad()
    def gradients(self, u: Tensor, dead: Tensor) -> Step:
        """Set `.grad` to the gradients of the module's loss. See `TrainingSAE.gradients`."""
        p, n, dtype = self.parameters, len(u), self.preactivations.dtype
        k, width, strength = self.settings.k, self.settings.bandwidth, self.settings.l0_weight
        atoms, theta = p["decoder_weight"].to(dtype), p["log_threshold"].exp()
        self.preactivations.load(p["encoder_weight"], p["encoder_bias"])
        pre = self.preactivations(u)
        active = pre > theta
        z = pre * active
        residual = torch.mm(z, atoms).float().add_(p["decoder_bias"]).sub_(u)
        error = residual.square().mean()
        mean_active = active.sum() / n
        excess = mean_active / k - 1
        outer = residual * (2 / residual.numel())
        low = outer.to(dtype)
        inner = torch.mm(low, atoms.t())
        near = (pre - theta).abs() < width / 2
        through_code = -(theta / width) * (inner * near).sum(dim=0, dtype=torch.float32)
        through_count = -(2 * strength * excess / (k * width)) * near.sum(dim=0) / n
        inner.mul_(active)
        p["log_threshold"].grad = theta * (through_code + through_count)
        p["decoder_weight"].grad = torch.mm(z.t(), low).float()
        p["decoder_bias"].grad = outer.sum(dim=0)
        p["encoder_weight"].grad = torch.mm(inner.t(), u.to(dtype)).float()
        p["encoder_bias"].grad = inner.sum(dim=0, dtype=torch.float32)
        self.remove_radial_gradient()
        loss = error + strength * excess.square()
        return Step(loss, error, mean_active, active.any(dim=0))

    def folded(self, mean: Tensor, scale: float) -> SparseAutoencoder:
        """Return the SAE for raw embeddings, with the learned thresholds."""
        threshold = self.parameters["log_threshold"].exp()
        return self.fold(mean, scale, threshold=threshold)


VARIANT = JumpReLU
