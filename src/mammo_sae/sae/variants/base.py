"""The part that all SAE variants share: parameters, atoms of norm 1, conversion to raw embeddings.

A variant is trained on centred and scaled embeddings u = scale (x - mean) with E ||u||^2 = d. Only
a variant with `raw = True` is trained on the raw embeddings x.
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
# Norm of the encoder's rows at the start. Each row has the direction of its atom, whose norm is 1.
# Adam needs fewer steps to turn a short row (docs/sae.md, "Variants").
ENCODER_LENGTH = 0.2


@dataclass(frozen=True)
class Start:
    """Data from which a variant computes its initial weights.

    Attributes
    ----------
    cells [m, d]
        Random training cells on the training device, at most 20,000 in a run. They are centred and
        scaled, unless the variant is trained on raw embeddings.
    scale
        The factor by which the cells were scaled.
    dtype
        Number type of dense products. None: the device's fastest type (`product_type`).
    """

    cells: Tensor
    scale: float
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Step:
    """Results of one training step. Scalars are tensors that stay on the device until logged.

    Attributes
    ----------
    loss
        The loss whose gradients were computed.
    error
        Squared reconstruction error in scaled units, averaged over cells and channels.
    active
        Mean number of active latents per cell.
    fired [h]
        True where a latent was active in some cell of the batch.
    """

    loss: Tensor
    error: Tensor
    active: Tensor
    fired: Tensor


def gradient_of(parameter: Tensor) -> Tensor:
    """Return the gradient of a parameter whose gradient has been computed."""
    assert parameter.grad is not None
    return parameter.grad


class UnfoldedSAE(ABC):
    """An SAE for centred and scaled embeddings, whose weights are trained or computed.

    Attributes
    ----------
    settings
        The variant's own settings.
    parameters
        The weights by name.
    raw
        Whether the SAE is for raw embeddings, neither centred nor scaled.
    takes_steps
        Whether the weights are trained step by step. False: they are computed at once from the
        sampled cells (`mammo_sae.sae.variants.computed`).
    """

    raw = False
    takes_steps = True
    settings: Any
    parameters: dict[str, Tensor]

    @property
    def atoms(self) -> Tensor:
        """The decoder's rows [h, d], of norm 1."""
        return self.parameters["decoder_weight"]

    @abstractmethod
    def folded(self, mean: Tensor, scale: float) -> SparseAutoencoder:
        """Return the SAE for raw embeddings x, where u = scale (x - mean)."""

    def fold(
        self,
        mean: Tensor,
        scale: float,
        *,
        gain: Tensor | None = None,
        k: int | None = None,
        threshold: Tensor | None = None,
    ) -> SparseAutoencoder:
        """Return an SAE for raw embeddings, with centring, scaling and gains folded into weights.

        Let u = scale (x - mean), z = act(gain (W u) + b_e), u_hat = z D + b_d, with act positively
        homogeneous. Then z / scale = act(gain W (x - mean) + b_e / scale). Parameters and buffers
        stay unchanged, and the returned SAE shares no memory with them.
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


class TrainingSAE(UnfoldedSAE):
    """An SAE in training.

    Attributes
    ----------
    parameters
        Trained tensors by name. `gradients` sets the `.grad` of each tensor. A step leaves a tensor
        as it is if its `.grad` is None.
    buffers
        Other tensors by name that change from step to step.
    """

    def __init__(self, settings: SaeTraining, start: Start) -> None:
        self.settings = settings.variant
        device, channels = start.cells.device, start.cells.shape[1]
        self.latents = settings.latents
        # Draw on the CPU, so that a seed gives the same initial weights on every device.
        self.generator = torch.Generator().manual_seed(settings.seed)
        if settings.init == "cells":
            drawn = torch.randint(len(start.cells), (self.latents,), generator=self.generator)
            atoms = start.cells[drawn.to(device)]
        else:
            atoms = torch.randn(self.latents, channels, generator=self.generator).to(device)
        atoms = atoms / atoms.norm(dim=1, keepdim=True).clamp(min=1e-12)
        offset = torch.zeros(channels, device=device)  # centred cells have mean 0
        if settings.bias == "median":
            offset = geometric_median(start.cells)
        self.parameters = {
            "encoder_weight": atoms * ENCODER_LENGTH,
            "encoder_bias": torch.zeros(self.latents, device=device),
            "decoder_weight": atoms,
            "decoder_bias": offset,
        }
        self.buffers: dict[str, Tensor] = {}
        self.preactivations = sparse.Preactivations(self.latents, channels, device, start.dtype)

    def loss(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, the reconstruction [n, d] and the codes [n, h] of a batch u [n, d].

        A variant defines either `loss` or `gradients`. If it defines `loss`, autograd computes the
        gradients. Hand-written gradients can be faster.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither `loss` nor `gradients`")

    def gradients(self, u: Tensor, dead: Tensor) -> Step:
        """Set the parameters' `.grad` for a batch u [n, d]; return the results of the step.

        `dead` [m] has the indices of the dead latents. The decoder's gradient is in `atoms.grad`.
        """
        trained = self.parameters
        self.parameters = {name: p.detach().requires_grad_() for name, p in trained.items()}
        try:
            loss, reconstruction, codes = self.loss(u)
            found = torch.autograd.grad(
                loss, list(self.parameters.values()), allow_unused=True, materialize_grads=True
            )
        finally:
            self.parameters = trained
        for parameter, gradient in zip(trained.values(), found, strict=True):
            parameter.grad = gradient
        self.remove_radial_gradient()
        is_active = codes.detach() > 0
        error = (reconstruction.detach() - u).square().mean()
        return Step(loss.detach(), error, is_active.sum() / len(u), is_active.any(dim=0))

    def constrain(self) -> None:
        """Scale the decoder's atoms to norm 1, after an optimiser step."""
        sparse.unit_(self.parameters["decoder_weight"])

    def revive(self, u: Tensor, dead: Tensor, optimiser: torch.optim.Adam, progress: float) -> None:
        """Resample dead latents, if the variant does so; `progress` is the share of steps done."""

    def restored(self) -> None:
        """Recompute values derived from parameters and buffers after a checkpoint set these."""

    def remove_radial_gradient(self) -> None:
        """Remove from each atom's gradient the part along the atom.

        A step along the atom changes only its norm, and `constrain` sets the norm back to 1.
        """
        sparse.tangent_(gradient_of(self.atoms), self.atoms)


def geometric_median(cells: Tensor) -> Tensor:
    """Return the point [d] with the smallest summed distance to cells [m, d] (Weiszfeld 1937)."""
    point = cells.mean(dim=0)
    for _ in range(MEDIAN_ROUNDS):
        weight = 1 / (cells - point).norm(dim=1).clamp(min=1e-6)
        point = weight @ cells / weight.sum()
    return point
