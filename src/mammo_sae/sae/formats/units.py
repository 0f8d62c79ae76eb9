"""The last conversion of every reader: atoms get norm 1, codes become lengths in the embedding.

Let p = W (x - c) + b, x_hat = sum_j z_j D_j + b_d and n_j = ||D_j||. x_hat does not change if atom
j is divided by n_j and its code z_j is multiplied by n_j. With ReLU or thresholds, codes are
multiplied by n_j if row j of W, b_j and threshold_j are. With k, this would change which p_j are
the k largest. `selection`, which is proportional to 1 / n_j, keeps the original choice.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mammo_sae.errors import InputError
from mammo_sae.sae.model import SparseAutoencoder

# Norms whose relative difference from 1, or from their mean, is smaller count as equal to it.
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
        Weight and bias of the encoder, float64.
    atoms, offset : [h, d], [d]
        Weight and bias of the decoder. Atoms may have any norm.
    centre : [d]
        Vector that the encoder subtracts from its input. None: it subtracts nothing.
    k, threshold
        The rule for active latents, as in `SparseAutoencoder`. Thresholds [h] below 0 become 0.
    chosen_by_length
        The k largest p_j ||D_j|| are active, not the k largest p_j.

    Raises
    ------
    InputError
        If k is larger than the number of latents, a norm is infinite, or an atom is 0 although its
        latent could be among the k largest.
    """
    if k is not None and k > len(atoms):
        raise InputError(f"{path} has {len(atoms)} latents, fewer than k = {k}; correct k")
    if centre is not None:
        bias = bias - weight @ centre
    if threshold is not None:
        threshold = threshold.clamp(min=0)
    length = torch.linalg.vector_norm(atoms, dim=1)
    if not torch.isfinite(length).all():
        raise InputError(f"{path}: the norm of an atom is infinite; save the SAE again")
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
