"""Non-negative matrix factorisation of the training cells, a dictionary that is learnt simply.

With u a cell, centred and scaled, and l the least value of each channel over the sampled cells:

    u - l = z D,  z >= 0,  D >= 0,  each D_j of norm 1              factorisation
    p = W u + b,  the ridge regression of z on u                    encoder
    z'_j = p_j for the k largest p_j above 0, else 0                codes
    u_hat = z' D + b_d,  b_d the mean of u - z' D                   reconstruction

Four things are approximated:

- The factorisation is made by scikit-learn's MiniBatchNMF on the sampled cells. It ends in a local
  optimum that depends on the seed, or after 50 passes, before it has converged.
- Exact codes would be the solution of a non-negative least-squares problem for each cell. The ridge
  regression, followed by ReLU, is linear up to the ReLU, as the encoders of all SAEs here are.
- The factorisation has no sparsity penalty, and its codes are not k-sparse. The k largest codes
  leave out the others.
- The left-out codes and l have a mean, which b_d restores over the sampled cells.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.decomposition import MiniBatchNMF
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.variants.computed import ComputedSAE

if TYPE_CHECKING:
    from mammo_sae.sae.settings import SaeTraining

PASSES = 50  # largest number of passes over the sampled cells
CODE_STEPS = 50  # largest number of multiplicative updates of the codes, given the atoms
# Weight of the squared encoder weights relative to the mean variance of a channel, which is 1.
RIDGE = 1e-3
CELLS_AT_ONCE = 4096


class NMF(ComputedSAE):
    """Non-negative atoms, and an encoder fitted to the codes of the factorisation."""

    def computed(self, settings: SaeTraining, cells: Tensor) -> dict[str, Tensor]:
        """Return the weights of a factorisation of cells [m, d], computed on the CPU."""
        u = cells.cpu()
        atoms, codes = factorised(u - u.amin(dim=0), settings.latents, settings.seed)
        weight, bias = ridge(u, codes)
        sae = SparseAutoencoder(weight, bias, atoms, torch.zeros(u.shape[1]), k=self.settings.k)
        encode, rest = sae.encoder(), torch.zeros(u.shape[1], dtype=torch.float64)
        for part in u.split(CELLS_AT_ONCE):
            rest += (part - sae.decode(*encode(part))).sum(dim=0, dtype=torch.float64)
        found = {
            "encoder_weight": weight,
            "encoder_bias": bias,
            "decoder_weight": atoms,
            "decoder_bias": (rest / len(u)).float(),
        }
        return {name: tensor.to(cells.device) for name, tensor in found.items()}


def factorised(cells: Tensor, latents: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return atoms [h, d] of norm 1 and codes [m, h] whose product approximates cells [m, d] >= 0.

    A latent that the factorisation does not use has codes of 0 and an atom of equal entries.
    """
    # By default, ten batches without a smaller error end it, often in the first pass.
    model = MiniBatchNMF(
        latents,
        random_state=seed,
        max_iter=PASSES,
        transform_max_iter=CODE_STEPS,
        max_no_improvement=None,
    )
    with warnings.catch_warnings():
        # The number of passes is limited on purpose.
        warnings.simplefilter("ignore", ConvergenceWarning)
        codes = torch.from_numpy(model.fit_transform(cells.numpy()))
    atoms = torch.from_numpy(np.asarray(model.components_, dtype=np.float32))
    length = atoms.norm(dim=1)
    equal = torch.full_like(atoms, atoms.shape[1] ** -0.5)
    unit = torch.where(length.unsqueeze(1) > 0, atoms / length.clamp(min=1e-30).unsqueeze(1), equal)
    return unit, codes * length


def ridge(cells: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight [h, d] and bias [h] of the ridge regression of codes [m, h] on cells [m, d].

    weight = (C + RIDGE I)^-1 X^T Z / m, transposed, with C = X^T X / m and X and Z centred. It is
    computed in float64.
    """
    mean, level = cells.double().mean(dim=0), codes.double().mean(dim=0)
    x = cells.double() - mean
    covariance = x.t() @ x / len(x)
    covariance.diagonal().add_(RIDGE)
    crossed = torch.zeros(cells.shape[1], codes.shape[1], dtype=torch.float64)
    for some, their in zip(x.split(CELLS_AT_ONCE), codes.split(CELLS_AT_ONCE), strict=True):
        crossed += some.t() @ (their.double() - level)
    weight = torch.linalg.solve(covariance, crossed / len(x)).t()
    return weight.float().contiguous(), (level - weight @ mean).float()


VARIANT = NMF
