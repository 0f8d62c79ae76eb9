"""TopK with a part frozen at its random start (Korznikov et al. 2026, arXiv 2602.14111).

The loss, AuxK, the optimiser and the random start are those of `topk`. `frozen` names the part that
training leaves at its start:

    decoder    the atoms
    encoder    the encoder's rows and biases
    soft       no part, but each atom keeps cosine >= `cosine` with its start: after every step, an
               atom a that has left this cone around its start s returns to the cone's surface,
               a <- c s + sqrt(1 - c^2) r,  r the unit vector of a - (a . s) s,  c the cosine
    both       the atoms, the encoder's rows and biases. Only the decoder's bias is trained.

A frozen encoder has rows of norm 1, so a pre-activation is a projection onto the row, and biases of
0. (The shorter rows of the other variants are a start for Adam.) A frozen encoder can't learn how
long its codes should be. With `encoder` the atoms therefore have any length in training, and the
length is folded into the saved encoder's rows. The k latents are still those with the largest
projections (`selection` in `mammo_sae.sae.model`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mammo_sae.sae import sparse
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.variants.base import Start, Step
from mammo_sae.sae.variants.topk import TopK

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining

ENCODER = ("encoder_weight", "encoder_bias")
FROZEN = {
    "decoder": ("decoder_weight",),
    "encoder": ENCODER,
    "soft": (),
    "both": (*ENCODER, "decoder_weight"),
}
# Added to the least cosine, so that rounding does not leave an atom below it.
ROUNDING = 1e-6


class Random(TopK):
    """A TopK SAE in training, part of which stays at its random start."""

    def __init__(self, settings: SaeTraining, start: Start) -> None:
        super().__init__(settings, start)
        self._frozen = FROZEN[self.settings.frozen]
        self._first = self.atoms.clone()
        if "encoder_weight" in self._frozen:
            self.parameters["encoder_weight"] = self.atoms.clone()

    def gradients(self, u: Tensor, dead: Tensor) -> Step:
        """Set the `.grad` of the parts that are not frozen to the gradients of TopK's loss."""
        step = super().gradients(u, dead)
        for name in self._frozen:
            self.parameters[name].grad = None
        return step

    def remove_radial_gradient(self) -> None:
        """Remove the part of each atom's gradient along the atom, unless its length is trained."""
        if not self._lengths_are_trained:
            super().remove_radial_gradient()

    @torch.no_grad()
    def constrain(self) -> None:
        """Scale trained atoms to norm 1 and return them to their cones; leave frozen ones alone."""
        if "decoder_weight" in self._frozen or self._lengths_are_trained:
            return
        super().constrain()
        if self.settings.frozen == "soft":
            self.atoms.copy_(in_cone(self.atoms, self._first, self.settings.cosine))

    def folded(self, mean: Tensor, scale: float) -> SparseAutoencoder:
        """Return the SAE for raw embeddings."""
        if not self._lengths_are_trained:
            return super().folded(mean, scale)
        length = self.atoms.norm(dim=1).clamp(min=1e-12)
        sae = self.fold(mean, scale, k=self.settings.k, gain=length)
        return replace(
            sae, decoder_weight=sae.decoder_weight / length.unsqueeze(1), selection=1 / length
        )

    @property
    def _lengths_are_trained(self) -> bool:
        return self.settings.frozen == "encoder"


def in_cone(atoms: Tensor, axes: Tensor, cosine: float) -> Tensor:
    """Return atoms [h, d] with those outside the cones moved to the nearest atom of norm 1 inside.

    Row j's cone has the axis axes[j] and contains the vectors with at least this cosine to it. All
    rows of `atoms` and `axes` have norm 1.
    """
    least = min(1.0, cosine + ROUNDING)
    found = torch.linalg.vecdot(atoms, axes).unsqueeze(1)
    across = atoms - found * axes
    across /= across.norm(dim=1, keepdim=True).clamp(min=1e-12)
    moved = least * axes + (1 - least**2) ** 0.5 * across
    sparse.unit_(moved)
    return torch.where(found < least, moved, atoms)


VARIANT = Random
