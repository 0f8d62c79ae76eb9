"""Gated SAE (Rajamanoharan et al. 2024, arXiv 2404.16014) with shared encoder weights.

    gate = u W^T + b_g,  magnitude = exp(r) (u W^T) + b_e
    z = ReLU(magnitude) where gate > 0, else 0,  u_hat = z D + b_d
    loss = mean of (u_hat - u)^2
           + l1 scale (mean over cells of sum_j ReLU(gate_j))
           + mean of (ReLU(gate) D' + b_d' - u)^2,  D', b_d' held constant

Here r is `log_gain`, and scale is the factor of the embeddings (`Start.scale`), so that the weight
l1 applies in raw units. The saved SAE has thresholds instead of gates, because gate_j > 0 is the
same as magnitude_j > b_e_j - exp(r_j) b_g_j. It has the encoder rows exp(r_j) W_j and these
thresholds, with 0 in place of negative ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.variants.base import Start, Step, TrainingSAE

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining


class Gated(TrainingSAE):
    """A gated SAE in training."""

    def __init__(self, settings: SaeTraining, start: Start) -> None:
        super().__init__(settings, start)
        self._weight = self.settings.l1 * start.scale
        for name in ("gate_bias", "log_gain"):
            self.parameters[name] = torch.zeros_like(self.parameters["encoder_bias"])

    @torch.no_grad()
    def gradients(self, u: Tensor, dead: Tensor) -> Step:
        """Set `.grad` to the gradients of the module's loss. See `TrainingSAE.gradients`."""
        p, n, dtype = self.parameters, len(u), self.preactivations.dtype
        atoms, gain = p["decoder_weight"].to(dtype), p["log_gain"].exp().to(dtype)
        self.preactivations.load(p["encoder_weight"], torch.zeros_like(p["encoder_bias"]))
        linear = self.preactivations(u)
        gate = linear + p["gate_bias"].to(dtype)
        magnitude = linear * gain + p["encoder_bias"].to(dtype)
        is_open = gate > 0
        active = is_open & (magnitude > 0)
        z = magnitude * active
        gate = gate.clamp_(min=0)

        residual = torch.mm(z, atoms).float().add_(p["decoder_bias"]).sub_(u)
        error = residual.square().mean()
        outer = residual * (2 / residual.numel())
        low = outer.to(dtype)
        through_magnitude = torch.mm(low, atoms.t()).mul_(active)

        extra = torch.mm(gate, atoms).float().add_(p["decoder_bias"]).sub_(u)
        loss = error + extra.square().mean() + self._weight * gate.sum(dtype=torch.float32) / n
        low_extra = (extra * (2 / extra.numel())).to(dtype)
        through_gate = torch.mm(low_extra, atoms.t()).add_(self._weight / n).mul_(is_open)

        p["decoder_weight"].grad = torch.mm(z.t(), low).float()
        p["decoder_bias"].grad = outer.sum(dim=0)
        p["encoder_bias"].grad = through_magnitude.sum(dim=0, dtype=torch.float32)
        p["gate_bias"].grad = through_gate.sum(dim=0, dtype=torch.float32)
        through_magnitude.mul_(gain)
        p["log_gain"].grad = (through_magnitude * linear).sum(dim=0, dtype=torch.float32)
        inner = through_magnitude.add_(through_gate)
        p["encoder_weight"].grad = torch.mm(inner.t(), u.to(dtype)).float()
        self.remove_radial_gradient()
        return Step(loss, error, active.sum() / n, active.any(dim=0))

    def folded(self, mean: Tensor, scale: float) -> SparseAutoencoder:
        """Return the SAE for raw embeddings, with thresholds in place of gates."""
        p = self.parameters
        gain = p["log_gain"].exp()
        threshold = (p["encoder_bias"] - gain * p["gate_bias"]).clamp(min=0)
        return self.fold(mean, scale, gain=gain, threshold=threshold)


VARIANT = Gated
