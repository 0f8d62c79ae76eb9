"""Relaxed archetypal TopK (Fel et al. 2025, arXiv 2502.12892): atoms made of data points.

    D_j = unit(sum_c A_jc C_c + R_j),  A_jc >= 0,  sum_c A_jc = 1,  ||R_j|| <= relaxation sqrt(d)

The rows of C are the centroids of a k-means over training cells. Apart from the relaxation R, every
atom points into the convex hull of the data. Dictionaries of different seeds then agree far better.
The encoder, the loss and AuxK are those of TopK. After every step, the rows of A are clipped at 0
and divided by their sum, and the rows of R that are too long are shortened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mammo_sae.sae import sparse
from mammo_sae.sae.variants.base import ENCODER_LENGTH, Start, Step
from mammo_sae.sae.variants.topk import TopK

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining

ROUNDS = 10


class Archetypal(TopK):
    """An archetypal SAE in training. It trains mixture A and relaxation R, not `decoder_weight`."""

    def __init__(self, settings: SaeTraining, start: Start) -> None:
        super().__init__(settings, start)
        count = min(self.settings.candidates, len(start.cells))
        self._centroids = centroids(start.cells, count, self.generator)
        self._longest = self.settings.relaxation * start.cells.shape[1] ** 0.5
        first = torch.randint(count, (self.latents,), generator=self.generator)
        mixture = torch.zeros(self.latents, count)
        mixture[torch.arange(self.latents), first] = 1
        drawn = self.parameters.pop("decoder_weight")
        self.parameters["mixture"] = mixture.to(drawn.device)
        self.parameters["relaxation"] = torch.zeros_like(drawn)
        self._refresh()
        self.parameters["encoder_weight"].copy_(self._atoms * ENCODER_LENGTH)

    @property
    def atoms(self) -> Tensor:
        """The atoms [h, d], computed from mixture and relaxation."""
        return self._atoms

    def gradients(self, u: Tensor, dead: Tensor) -> Step:
        """Set the `.grad` of mixture and relaxation to the gradients of TopK's loss."""
        step = super().gradients(u, dead)
        # The chain rule through unit() removes the radial part, which `super` has done already,
        # and divides by the length.
        made = self._atoms.grad / self._length
        self.parameters["relaxation"].grad = made
        self.parameters["mixture"].grad = made @ self._centroids.t()
        return step

    @torch.no_grad()
    def constrain(self) -> None:
        """Project mixture and relaxation onto their constraints; recompute the atoms."""
        mixture, relaxation = self.parameters["mixture"], self.parameters["relaxation"]
        mixture.clamp_(min=0)
        total = mixture.sum(dim=1, keepdim=True)
        mixture /= total.clamp(min=1e-12)
        length = relaxation.norm(dim=1, keepdim=True)
        relaxation *= (self._longest / length.clamp(min=1e-12)).clamp(max=1)
        self._refresh()

    def restored(self) -> None:
        """Recompute the atoms from the restored mixture and relaxation."""
        self._refresh()

    def _refresh(self) -> None:
        made = self.parameters["mixture"] @ self._centroids + self.parameters["relaxation"]
        self._length = made.norm(dim=1, keepdim=True).clamp(min=1e-12)
        self._atoms = made / self._length


def centroids(cells: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the centres [count, d] of a k-means over cells [m, d] (Lloyd's algorithm).

    The first centres are random cells. A centre without cells does not move.
    """
    order = torch.randperm(len(cells), generator=generator).to(cells.device)
    centre = cells[order[:count]].clone()
    for _ in range(ROUNDS):
        # argmin ||x - c||^2 = argmax x.c - ||c||^2 / 2
        offset = centre.square().sum(dim=1) / 2
        nearest = torch.cat([(part @ centre.t() - offset).argmax(1) for part in cells.split(4096)])
        # index_add_ would add in a different order in every run on a GPU.
        members = sparse.ByLatent.of(nearest.unsqueeze(1), count)
        size = members.start.diff()
        total = members.sum(torch.ones(len(cells), 1, device=cells.device), cells)
        centre = torch.where(size.unsqueeze(1) > 0, total / size.clamp(min=1).unsqueeze(1), centre)
    return centre


VARIANT = Archetypal
