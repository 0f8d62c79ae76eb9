"""The part that variants without training steps share: weights computed from the sampled cells."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mammo_sae.errors import InputError
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.variants.base import Start, UnfoldedSAE

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining


class ComputedSAE(UnfoldedSAE):
    """A dictionary computed at once. The k largest pre-activations above 0 are a cell's codes.

    Raises
    ------
    InputError
        If k is more than the number of latents.
    """

    takes_steps = False

    def __init__(self, settings: SaeTraining, start: Start) -> None:
        self.settings = settings.variant
        self.parameters = self.computed(settings, start.cells)
        latents, channels = self.atoms.shape
        if self.settings.k > latents:
            raise InputError(
                f"variant.k = {self.settings.k} is more than the {latents} latents that "
                f"{self.settings.name} has on {channels} channels; lower it"
            )

    @abstractmethod
    def computed(self, settings: SaeTraining, cells: Tensor) -> dict[str, Tensor]:
        """Return `parameters` from cells [m, d], which are centred and scaled."""

    def folded(self, mean: Tensor, scale: float) -> SparseAutoencoder:
        """Return the SAE for raw embeddings."""
        return self.fold(mean, scale, k=self.settings.k)


def signed(directions: Tensor) -> dict[str, Tensor]:
    """Return the weights of a dictionary of orthonormal directions [m, d] and their negatives.

    Latent j has the atom directions[j], and latent m + j has -directions[j]. The pre-activation of
    a latent is the projection of the cell onto its atom. Both biases are 0.
    """
    atoms = torch.cat([directions, -directions])
    return {
        "encoder_weight": atoms,
        "encoder_bias": atoms.new_zeros(len(atoms)),
        "decoder_weight": atoms.clone(),
        "decoder_bias": atoms.new_zeros(atoms.shape[1]),
    }
