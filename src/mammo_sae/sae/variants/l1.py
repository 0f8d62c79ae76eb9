"""ReLU with an L1 penalty, after Mammo-SAE (arXiv 2507.15227) and Bricken et al. 2023.

The paper's own SAE is `mammo_sae.sae.variants.mammo_sae`. docs/sae.md says how the two differ.

    z = ReLU(u W^T + b_e),  u_hat = z D + b_d,  ||D_j|| = 1
    loss = mean over cells of (mean over channels of (u_hat - u)^2 + l1 scale sum_j z_j)

This loss is scale^2 times the same loss on raw embeddings with weight l1. So the published weight
can be used unchanged.

Whenever another share `resample_every` of the steps is done, except at the end, dead latents are
resampled as in Bricken et al. Each dead latent gets the direction of a cell, for its atom and for
its encoder row. The cell is drawn with probability proportional to the square of its mean squared
error. The encoder row gets a fifth of the mean norm of the alive latents' rows. The bias and the
latent's Adam moments are set to 0. The cells are those of `Start.cells`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mammo_sae.sae import sparse
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.variants.base import Start, Step, TrainingSAE

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining

ENCODER_NORM = 0.2
CELLS_AT_ONCE = 4096


class L1(TrainingSAE):
    """A ReLU SAE with an L1 penalty in training."""

    def __init__(self, settings: SaeTraining, start: Start) -> None:
        super().__init__(settings, start)
        self._weight = self.settings.l1 * start.scale
        self._sample = start.cells
        self.buffers["resampled"] = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def gradients(self, u: Tensor, dead: Tensor) -> Step:
        """Set `.grad` to the gradients of the module's loss. See `TrainingSAE.gradients`."""
        p, n, dtype = self.parameters, len(u), self.preactivations.dtype
        atoms = p["decoder_weight"].to(dtype)
        self.preactivations.load(p["encoder_weight"], p["encoder_bias"])
        z = self.preactivations(u)
        summed, active, fired = sparse.rectify_(z)
        residual = torch.mm(z, atoms).float().add_(p["decoder_bias"]).sub_(u)
        error = residual.square().mean()
        loss = error + self._weight * summed / n
        outer = residual * (2 / residual.numel())
        low = outer.to(dtype)
        inner = torch.mm(low, atoms.t())
        p["encoder_bias"].grad = sparse.through_rectified_(inner, z, self._weight / n)
        p["decoder_weight"].grad = torch.mm(z.t(), low).float()
        p["decoder_bias"].grad = outer.sum(dim=0)
        p["encoder_weight"].grad = torch.mm(inner.t(), u.to(dtype)).float()
        self.remove_radial_gradient()
        return Step(loss, error, active / n, fired)

    @torch.no_grad()
    def revive(self, u: Tensor, dead: Tensor, optimiser: torch.optim.Adam, progress: float) -> None:
        """Resample dead latents at the end of each interval. See the module."""
        done = int(self.buffers["resampled"])
        # No resampling at the end of the last interval: new latents would get no training.
        if progress > 1 - self.settings.resample_every or (
            progress < (done + 1) * self.settings.resample_every
        ):
            return
        self.buffers["resampled"] += 1
        if not len(dead):
            return
        p = self.parameters
        losses = []
        for part in self._sample.split(CELLS_AT_ONCE):
            z = torch.addmm(p["encoder_bias"], part, p["encoder_weight"].t()).clamp_(min=0)
            residual = torch.addmm(p["decoder_bias"], z, p["decoder_weight"]).sub_(part)
            losses.append(residual.square().mean(dim=1))
        squared_loss = torch.cat(losses).square().double().cpu()
        generator = torch.Generator().manual_seed(done)
        cells = torch.multinomial(squared_loss, len(dead), replacement=True, generator=generator)
        direction = self._sample[cells.to(u.device)]
        direction = direction / direction.norm(dim=1, keepdim=True)
        alive = torch.ones(self.latents, dtype=torch.bool, device=u.device)
        alive[dead] = False
        living = p["encoder_weight"][alive].norm(dim=1)
        length = living.mean() if len(living) else torch.ones((), device=u.device)
        p["decoder_weight"][dead] = direction
        p["encoder_weight"][dead] = direction * (ENCODER_NORM * length)
        p["encoder_bias"][dead] = 0
        for name in ("decoder_weight", "encoder_weight", "encoder_bias"):
            for moment in ("exp_avg", "exp_avg_sq"):
                optimiser.state[p[name]][moment][dead] = 0

    def folded(self, mean: Tensor, scale: float) -> SparseAutoencoder:
        """Return the SAE for raw embeddings. Latents with pre-activations above 0 are active."""
        threshold = torch.zeros_like(self.parameters["encoder_bias"])
        return self.fold(mean, scale, threshold=threshold)


VARIANT = L1
