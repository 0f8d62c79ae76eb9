"""What every reader ends in: atoms of norm 1, codes as lengths in the embedding.

With p = W (x - c) + b, x_hat = sum_j z_j D_j + b_d and n_j = ||D_j||, nothing changes in x_hat if
atom j is divided by n_j and its code multiplied by it. ReLU and thresholds (of p) commute with a
positive factor, so row j of W, b_j and threshold_j are multiplied by n_j too. The k largest of
several latents do not: they stay those of the unscaled p, which `selection` = 1 / n_j restores.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mammo_sae.errors import InputError
from mammo_sae.sae.model import SparseAutoencoder

# Norms that differ from 1 (or from each other) by less are those of float32 rounding.
ROUNDING = 1e-6


def in_embedding_units(
    path: Path,
    source: str,
    *,
    weight: Tensor,
    bias: Tensor,
    atoms: Tensor,
    offset: Tensor,
    centre: Tensor | None = None,
    k: int | None = None,
    threshold: Tensor | None = None,
    chosen_by_length: bool = False,
) -> SparseAutoencoder:
    """Return an SAE for raw embeddings with atoms of norm 1 and the same reconstructions.

    A latent whose atom is 0 reconstructs nothing. It is never active here, and its atom stays 0.

    Parameters
    ----------
    path, source
        For messages, and for the SAE's description.
    weight, bias : [h, d], [h]
        The encoder's, float64.
    atoms, offset : [h, d], [d]
        The decoder's, of any norm.
    centre : [d]
        What the encoder takes off its input; None: nothing.
    k, threshold
        Which latents are active, as in `SparseAutoencoder`; thresholds [h] of p below 0 are 0.
    chosen_by_length
        The k largest p_j ||D_j|| are active, not the k largest p_j.

    Raises
    ------
    InputError
        If atoms are 0 and would take places among the k largest.
    """
    if k is not None and k > len(atoms):
        raise InputError(f"{path} has {len(atoms)} latents, so k = {k} can't be; correct k")
    if centre is not None:
        bias = bias - weight @ centre
    if threshold is not None:
        threshold = threshold.clamp(min=0)
    length = torch.linalg.vector_norm(atoms, dim=1)
    if not torch.isfinite(length).all():
        raise InputError(f"{path}: atoms are too long to be measured; save the SAE again")
    selection = None
    if (length - 1).abs().max() > ROUNDING:
        empty = length == 0
        if k is not None and not chosen_by_length:
            if empty.any():
                first = int(empty.nonzero()[0, 0])
                raise InputError(
                    f"{path}: the atoms of {int(empty.sum())} latents are 0 (the first is latent "
                    f"{first}), yet may be among the {k} largest; remove these latents"
                )
            if (length / length.mean() - 1).abs().max() > ROUNDING:
                selection = length.mean() / length
        atoms = atoms / length.masked_fill(empty, 1).unsqueeze(1)
        weight, bias = weight * length.unsqueeze(1), bias * length
        threshold = None if threshold is None else threshold * length
    return SparseAutoencoder(
        encoder_weight=_float32(weight),
        encoder_bias=_float32(bias),
        decoder_weight=_float32(atoms),
        decoder_bias=_float32(offset),
        k=k,
        threshold=None if threshold is None else _float32(threshold),
        selection=None if selection is None else _float32(selection),
        description={"source": source},
    )


def gates(gain: Tensor, gate_bias: Tensor, magnitude_bias: Tensor) -> Tensor:
    """Return the thresholds [h] of a gated SAE's magnitudes exp(r) (W x) + b_m.

    The gate W x + b_g > 0 says that the magnitude is above b_m - exp(r) b_g.
    """
    return magnitude_bias - gain * gate_bias


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous()
