"""The row of the training log of an SAE that took no training steps."""

from __future__ import annotations

import torch
from torch import Tensor

from mammo_sae.sae.model import SparseAutoencoder

CELLS_AT_ONCE = 4096


def row_without_steps(sae: SparseAutoencoder, x: Tensor) -> dict[str, float]:
    """Return the scores of an SAE on cells x [m, d], with the columns of a training log.

    The step is 0. `loss` and `error` are the squared reconstruction error, averaged over cells and
    channels, in the units of x. `dead_share` is the share of latents that are active in no cell.
    """
    encode, missed = sae.encoder(), 0.0
    used = torch.zeros(sae.latents, device=sae.device)
    for part in x.split(CELLS_AT_ONCE):
        index, value = encode(part)
        missed += float((part - sae.decode(index, value)).square().sum())
        used += torch.bincount(index[value > 0], minlength=sae.latents)
    return {
        "step": 0,
        "loss": missed / x.numel(),
        "error": missed / x.numel(),
        "explained_variance": 1 - missed / float((x - x.mean(dim=0)).square().sum()),
        "l0": float(used.sum()) / len(x),
        "dead_share": float((used == 0).double().mean()),
        "lr": 0.0,
    }
