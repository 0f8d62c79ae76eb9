"""TopK with AuxK (Gao et al. 2024, arXiv 2406.04093), with hand-written gradients.

With u [n, d] a batch, p = u W^T + b_e, S_i the k largest p_ij above 0:

    z_ij = p_ij for j in S_i, else 0
    u_hat_i = sum_j z_ij D_j + b_d
    L = mean over cells and channels of (u_hat - u)^2
    e = u - u_hat, held constant; A_i the k_aux largest p_ij of the dead latents, above 0
    L_aux = mean of (sum over A_i of p_ij D_j - e)^2
    loss = L + aux_weight L_aux

Automatic differentiation would multiply dense [n, h] arrays five times a step. Here one dense
product finds the active latents. Every other product costs k/h as much.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mammo_sae.sae import sparse
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.variants.base import Step, TrainingSAE, gradient_of


class TopK(TrainingSAE):
    """A TopK SAE in training."""

    @torch.no_grad()
    def gradients(self, u: Tensor, dead: Tensor) -> Step:
        """Set `.grad` to the gradients of the module's loss. See `TrainingSAE.gradients`."""
        self.preactivations.load(self.parameters["encoder_weight"], self.parameters["encoder_bias"])
        index, value = self.select(u)
        active = value > 0
        loss, residual = self.reconstruction(u, index, value)
        error = residual.square().mean()
        if self.settings.k_aux and len(dead):
            loss = loss + self._auxiliary(u, residual.neg(), dead)
        self.remove_radial_gradient()
        # Inactive slots set an extra entry h. Selecting the active slots would wait for a GPU.
        fired = torch.zeros(self.latents + 1, dtype=torch.bool, device=u.device)
        fired.index_fill_(0, torch.where(active, index, self.latents).flatten(), True)
        return Step(loss, error, active.sum() / len(u), fired[:-1])

    def select(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return index and value [n, m] of the active latents. An unused slot has value 0."""
        return self.candidates(u, self.settings.k)

    def candidates(self, u: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return index and value [n, count] of the largest pre-activations, clipped at 0."""
        weight, bias = self.parameters["encoder_weight"], self.parameters["encoder_bias"]
        index = sparse.largest(self.preactivations(u), count)
        cells, rows = self.preactivations.cells(u), self.preactivations.rows(weight)
        return index, (sparse.dots(cells, rows, index) + bias[index]).clamp_(min=0)

    def reconstruction(self, u: Tensor, index: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Set `.grad` to the gradients of L for these codes; return L and u_hat - u [n, d]."""
        p = self.parameters
        atoms = self.preactivations.rounded(self.atoms)
        residual = sparse.residual(index, value, atoms, p["decoder_bias"], u)
        # dL / du_hat
        outer = residual * (2 / residual.numel())
        low = self.preactivations.rounded(outer)
        inner = sparse.dots(low, atoms, index).mul_(value > 0)
        by_latent = sparse.ByLatent.of(index, self.latents)
        self.atoms.grad = by_latent.sum(value, low)
        p["decoder_bias"].grad = outer.sum(dim=0)
        p["encoder_weight"].grad = by_latent.sum(inner, self.preactivations.cells(u))
        p["encoder_bias"].grad = by_latent.total(inner)
        return residual.square().mean(), residual

    def _auxiliary(self, u: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        """Add the gradients of aux_weight L_aux to `.grad`; return aux_weight L_aux.

        The products are dense over the dead latents, because k_aux is a large share of them.
        """
        p, dtype = self.parameters, self.preactivations.dtype
        weight, atoms = p["encoder_weight"][dead], self.atoms[dead]
        low_u, low_atoms = u.to(dtype), atoms.to(dtype)
        value = torch.addmm(p["encoder_bias"][dead].to(dtype), low_u, weight.to(dtype).t())
        value.clamp_(min=0)
        if len(dead) > self.settings.k_aux:
            value = sparse.only_largest(value, self.settings.k_aux)
        miss = torch.mm(value, low_atoms).float().sub_(error)
        loss = miss.square().mean() * self.settings.aux_weight
        outer = (miss * (2 * self.settings.aux_weight / miss.numel())).to(dtype)
        inner = torch.mm(outer, low_atoms.t()).mul_(value > 0)
        # A dead latent that fires in this batch also has a gradient from the main loss.
        gradient_of(self.atoms).index_add_(0, dead, torch.mm(value.t(), outer).float())
        encoder, bias = gradient_of(p["encoder_weight"]), gradient_of(p["encoder_bias"])
        encoder.index_add_(0, dead, torch.mm(inner.t(), low_u).float())
        bias.index_add_(0, dead, inner.float().sum(dim=0))
        return loss

    def folded(self, mean: Tensor, scale: float) -> SparseAutoencoder:
        """Return the SAE for raw embeddings."""
        return self.fold(mean, scale, k=self.settings.k)


VARIANT = TopK
