"""The SAE of Mammo-SAE as its public code trains it (arXiv 2507.15227, krishnakanthnakka/MammoSAE).

That code uses ai-safety-foundation's `sparse_autoencoder`, as changed for DN-CBM. On raw
embeddings x:

    z = ReLU((x - b) W^T + b_e),  x_hat = z D + b,  ||D_j|| = 1
    loss = mean over cells of (mean over channels of (x_hat - x)^2 + l1 sum_j z_j)

The bias b is one tensor. It is used before the encoder and after the decoder, has a gradient from
both places, and starts at 0. Atoms start as random directions. Encoder weights start independently
of the atoms, from the uniform distribution of He et al. 2015 with a fan-in of h d. The fan-in is
not d, because the original weights have an additional first axis, and torch then multiplies the
sizes of the other two. The rows then have norm sqrt(2 / h). Encoder biases start uniform between
-1 / sqrt(h) and 1 / sqrt(h). Every product is float32.

Whenever another share `resample_every` of the steps is done, latents that have not fired since the
previous such time are resampled, but only while more than one interval is left. With 0.1 this
happens 8 times. The new directions are raw cells x / ||x||, drawn without replacement from
`resample_cells` cells with probability proportional to (L2 + L1 loss)^2. The new encoder rows have
0.2 times the mean norm of the alive latents' rows. The biases and Adam's moments are set to 0. The
cells are the last that training used. Every epoch has a new order, so they are a random sample of
the data, as in the original code. The variant `l1` is this project's own version and explains more
of the variance (docs/sae.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mammo_sae.errors import InputError
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.variants.base import Start, Step, TrainingSAE

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining

ENCODER_NORM = 0.2
CELLS_AT_ONCE = 4096


class MammoSae(TrainingSAE):
    """Mammo-SAE's original SAE in training."""

    raw = True

    def __init__(self, settings: SaeTraining, start: Start) -> None:
        super().__init__(settings, start)
        device, channels = start.cells.device, start.cells.shape[1]
        h, random = self.latents, self.generator
        # The gain is sqrt(2). A uniform number between -b and b has standard deviation b / sqrt(3).
        row = (6 / (h * channels)) ** 0.5
        uniform = torch.empty(h, channels).uniform_(-row, row, generator=random)
        bias = torch.empty(h).uniform_(-(h**-0.5), h**-0.5, generator=random)
        self.parameters["encoder_weight"] = uniform.to(device)
        self.parameters["encoder_bias"] = bias.to(device)
        self.parameters["decoder_bias"] = torch.zeros(channels, device=device)
        self._held = self.settings.resample_cells
        self.buffers["resampled"] = torch.zeros((), dtype=torch.int64)
        self.buffers["fired"] = torch.zeros(h, dtype=torch.bool, device=device)
        # `cells` is a ring buffer of the last cells used; `seen` counts all cells used.
        self.buffers["cells"] = torch.zeros(self._held, channels, device=device)
        self.buffers["seen"] = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def gradients(self, u: Tensor, dead: Tensor) -> Step:
        """Set `.grad` to the gradients of the module's loss. Here u [n, d] are raw embeddings."""
        p, n = self.parameters, len(u)
        shifted = u - p["decoder_bias"]
        z, residual = self._forward(shifted)
        error = residual.square().mean()
        loss = error + self.settings.l1 * z.sum() / n
        outer = residual * (2 / residual.numel())
        inner = torch.mm(outer, p["decoder_weight"].t()).add_(self.settings.l1 / n).mul_(z > 0)
        summed = inner.sum(dim=0)
        p["encoder_weight"].grad = torch.mm(inner.t(), shifted)
        p["encoder_bias"].grad = summed
        p["decoder_weight"].grad = torch.mm(z.t(), outer)
        p["decoder_bias"].grad = outer.sum(dim=0) - summed @ p["encoder_weight"]
        self.remove_radial_gradient()
        fired = (z > 0).any(dim=0)
        self.buffers["fired"] |= fired
        self._hold(u)
        return Step(loss, error, (z > 0).sum() / n, fired)

    @torch.no_grad()
    def revive(self, u: Tensor, dead: Tensor, optimiser: torch.optim.Adam, progress: float) -> None:
        """Resample latents that have not fired since the last resampling. See the module."""
        done, every = int(self.buffers["resampled"]), self.settings.resample_every
        near = 1e-9  # tolerance for the rounding of shares of a run
        if (done + 2) * every > 1 - near or progress < (done + 1) * every - near:
            return
        self.buffers["resampled"] += 1
        living = self.buffers["fired"].clone()
        self.buffers["fired"].zero_()
        idle = (~living).nonzero().squeeze(1)
        if not len(idle):
            return
        if not living.any():
            raise InputError(
                "no latent of the SAE has fired since the last resampling; lower lr or variant.l1"
            )
        cells = self.buffers["cells"][: int(self.buffers["seen"])]
        generator = torch.Generator().manual_seed(done)
        drawn = draw(self.losses(cells), len(idle), generator).to(u.device)
        direction = torch.nn.functional.normalize(cells[drawn], dim=1)
        p = self.parameters
        length = p["encoder_weight"][living].norm(dim=1).mean()
        p["decoder_weight"][idle] = direction
        p["encoder_weight"][idle] = direction * (ENCODER_NORM * length)
        p["encoder_bias"][idle] = 0
        for name in ("decoder_weight", "encoder_weight", "encoder_bias"):
            for moment in ("exp_avg", "exp_avg_sq"):
                optimiser.state[p[name]][moment][idle] = 0

    def losses(self, cells: Tensor) -> Tensor:
        """Return the loss [n] of each cell of `cells` [n, d]: L2 loss plus weighted L1 loss."""
        found = []
        for part in cells.split(CELLS_AT_ONCE):
            z, residual = self._forward(part - self.parameters["decoder_bias"])
            found.append(residual.square().mean(dim=1) + self.settings.l1 * z.sum(dim=1))
        return torch.cat(found)

    def folded(self, mean: Tensor, scale: float) -> SparseAutoencoder:
        """Return the SAE. It was trained on raw embeddings, so `mean` is 0 and `scale` is 1."""
        p = self.parameters
        return SparseAutoencoder(
            encoder_weight=p["encoder_weight"].clone(),
            encoder_bias=p["encoder_bias"] - p["encoder_weight"] @ p["decoder_bias"],
            decoder_weight=p["decoder_weight"].clone(),
            decoder_bias=p["decoder_bias"].clone(),
            threshold=torch.zeros_like(p["encoder_bias"]),
        )

    def _forward(self, shifted: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes [n, h] and residual [n, d] of cells minus the bias, `shifted` [n, d]."""
        p = self.parameters
        z = torch.addmm(p["encoder_bias"], shifted, p["encoder_weight"].t()).clamp_(min=0)
        return z, torch.mm(z, p["decoder_weight"]).sub_(shifted)

    def _hold(self, u: Tensor) -> None:
        u = u[-self._held :]
        seen = int(self.buffers["seen"])
        place = torch.arange(seen, seen + len(u), device=u.device) % self._held
        self.buffers["cells"][place] = u
        self.buffers["seen"] += len(u)


def draw(losses: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the indices [count] of different cells, drawn in proportion to losses [n] squared.

    Raises
    ------
    InputError
        If fewer than `count` cells have a loss above 0.
    """
    weight = losses.double().cpu().square()
    there = int((weight > 0).sum())
    if count > there:
        raise InputError(
            f"{count} latents are to be resampled from {there} cells with a loss above 0; raise "
            "variant.resample_cells, or lower latents"
        )
    return torch.multinomial(weight, count, replacement=False, generator=generator)


VARIANT = MammoSae
