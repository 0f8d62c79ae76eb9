"""What every variant shares: parameters, unit-norm decoder, folding into raw units.

Variants see centred and scaled embeddings u = scale (x - mean), E ||u||^2 = d, or raw ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mammo_sae.sae import sparse
from mammo_sae.sae.model import SparseAutoencoder

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining

MEDIAN_ROUNDS = 50
# Length of the encoder's rows at the start, against 1 of the atoms they point along. Adam moves a
# short row to a new direction in fewer steps (docs/sae.md, "Start").
ENCODER_LENGTH = 0.2


@dataclass(frozen=True)
class Start:
    """What a variant may look at before training.

    Attributes
    ----------
    cells [m, d]
        Random training cells, centred and scaled, on the device to train on; 20,000 in a run.
    scale
        What they were scaled by.
    dtype
        Type of dense products; None: the fastest (`product_type`).
    """

    cells: Tensor
    scale: float
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Step:
    """What one step found; scalars stay on the device until they are logged.

    Attributes
    ----------
    loss
        The loss that was differentiated.
    error
        Mean squared reconstruction error per channel, scaled units.
    active
        Mean number of active latents per cell.
    fired [h]
        True where a latent was active in some cell of the batch.
    """

    loss: Tensor
    error: Tensor
    active: Tensor
    fired: Tensor


class TrainingSAE(ABC):
    """An SAE in training.

    Attributes
    ----------
    parameters
        By name; `gradients` fills each one's `.grad`.
    buffers
        By name, what else changes from step to step.
    raw
        Whether it sees embeddings as they are, neither centred nor scaled.
    """

    raw = False

    def __init__(self, settings: SaeTraining, start: Start) -> None:
        self.settings: Any = settings.variant
        device, channels = start.cells.device, start.cells.shape[1]
        self.latents = settings.latents
        # Drawn on the CPU, so that a seed gives the same start on every device.
        self.generator = torch.Generator().manual_seed(settings.seed)
        if settings.init == "cells":
            drawn = torch.randint(len(start.cells), (self.latents,), generator=self.generator)
            atoms = start.cells[drawn.to(device)]
        else:
            atoms = torch.randn(self.latents, channels, generator=self.generator).to(device)
        atoms = atoms / atoms.norm(dim=1, keepdim=True).clamp(min=1e-12)
        offset = torch.zeros(channels, device=device)  # the mean of centred cells
        if settings.bias == "median":
            offset = geometric_median(start.cells)
        self.parameters: dict[str, Tensor] = {
            "encoder_weight": atoms * ENCODER_LENGTH,
            "encoder_bias": torch.zeros(self.latents, device=device),
            "decoder_weight": atoms,
            "decoder_bias": offset,
        }
        self.buffers: dict[str, Tensor] = {}
        self.preactivations = sparse.Preactivations(self.latents, channels, device, start.dtype)

    @property
    def atoms(self) -> Tensor:
        """The decoder's rows [h, d], of norm 1, whatever they are made of."""
        return self.parameters["decoder_weight"]

    @abstractmethod
    def gradients(self, u: Tensor, dead: Tensor) -> Step:
        """Fill the parameters' gradients for a batch u [n, d]; `dead` [m] are the dead latents.

        The decoder's goes into `atoms.grad`.
        """

    @abstractmethod
    def folded(self, mean: Tensor, scale: float) -> SparseAutoencoder:
        """Return the SAE for raw embeddings x, where u = scale (x - mean)."""

    def constrain(self) -> None:
        """Put the decoder's atoms back on the unit sphere, after an optimiser step."""
        sparse.unit_(self.parameters["decoder_weight"])

    def revive(  # noqa: B027 - most variants have nothing to do here
        self, u: Tensor, dead: Tensor, optimiser: torch.optim.Adam, progress: float
    ) -> None:
        """Start dead latents anew, if the variant does; `progress` is the share of steps done."""

    def restored(self) -> None:  # noqa: B027 - most variants have nothing to do here
        """Bring what follows from parameters and buffers up to date, after these were set."""

    def remove_radial_gradient(self) -> None:
        """Drop the part of the decoder's gradient that renormalising would undo."""
        sparse.tangent_(self.atoms.grad, self.atoms)

    def fold(
        self,
        mean: Tensor,
        scale: float,
        *,
        gain: Tensor | None = None,
        k: int | None = None,
        threshold: Tensor | None = None,
    ) -> SparseAutoencoder:
        """Fold centring, scaling and a gain per latent into new weights, in the embedding's units.

        From u_hat = z D + b_d, z = act(gain (W u) + b_e), u = scale (x - mean), and act positively
        homogeneous: z / scale = act(gain W (x - mean) + b_e / scale). Parameters and buffers stay
        as they are, and nothing returned shares memory with them.
        """
        p = self.parameters
        weight = p["encoder_weight"].clone()
        if gain is not None:
            weight *= gain.unsqueeze(1)
        return SparseAutoencoder(
            encoder_weight=weight,
            encoder_bias=p["encoder_bias"] / scale - weight @ mean,
            decoder_weight=self.atoms.clone(),
            decoder_bias=p["decoder_bias"] / scale + mean,
            k=k,
            threshold=None if threshold is None else threshold / scale,
        )


def geometric_median(cells: Tensor) -> Tensor:
    """Return the point [d] with the smallest summed distance to cells [m, d] (Weiszfeld 1937)."""
    point = cells.mean(dim=0)
    for _ in range(MEDIAN_ROUNDS):
        weight = 1 / (cells - point).norm(dim=1).clamp(min=1e-6)
        point = weight @ cells / weight.sum()
    return point
