"""A trained sparse autoencoder for raw embeddings, and its files.

With x in R^d an embedding and h latents:

    p = encoder_weight x + encoder_bias                       pre-activations, [h]
    z = p at the active latents, 0 elsewhere                  code
    x_hat = sum_j z_j decoder_weight[j] + decoder_bias        reconstruction

An SAE has one of two rules for its active latents. With `k`, the k largest p above 0 are active.
With `threshold`, every latent with p above its own threshold is active. A published SAE, or one
with a frozen encoder, may rank latents by p_j selection_j instead of p_j (`selection`).

Training centres and scales the embeddings. Centring and scaling are folded into the saved weights,
so x and x_hat are raw embeddings. The rows of `decoder_weight` (atoms) have Euclidean norm 1 in the
embedding's units, so a code z_j is the length of its atom's contribution to the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor

from mammo_sae.errors import InputError
from mammo_sae.sae import sparse
from mammo_sae.sae.files import FORMAT, KIND, read_files
from mammo_sae.stores.checksums import file_digest
from mammo_sae.stores.publish import atomic_file, write_json

if TYPE_CHECKING:  # training on cells in memory needs neither stores nor their packages
    from mammo_sae.grids import LayerGrid


@dataclass(frozen=True)
class SparseAutoencoder:
    """Weights and sparsity rule of one SAE.

    Attributes
    ----------
    encoder_weight [h, d], encoder_bias [h], decoder_weight [h, d], decoder_bias [d]
        float32, for raw embeddings.
    k or None
        The k largest pre-activations above 0 are active.
    threshold [h] or None
        A latent is active if its pre-activation is above its threshold, which is at least 0.
        Exactly one of k and threshold is set.
    selection [h] or None
        Only with k: the k largest p * selection above 0 are active. None: the k largest p.
    description
        Entries of `sae.json` other than shapes and files.
    """

    encoder_weight: Tensor
    encoder_bias: Tensor
    decoder_weight: Tensor
    decoder_bias: Tensor
    k: int | None = None
    threshold: Tensor | None = None
    selection: Tensor | None = None
    description: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        h, d = self.encoder_weight.shape
        shapes = {
            "encoder_bias": (h,),
            "decoder_weight": (h, d),
            "decoder_bias": (d,),
            "threshold": (h,),
            "selection": (h,),
        }
        for name, tensor in self.tensors().items():
            if name in shapes and tuple(tensor.shape) != shapes[name]:
                raise InputError(
                    f"SAE tensor {name} has shape {tuple(tensor.shape)}, not {shapes[name]}; "
                    "it does not fit encoder_weight"
                )
            if not torch.isfinite(tensor).all():
                raise InputError(f"SAE tensor {name} holds NaN or infinity; train it again")
        if (self.k is None) == (self.threshold is None):
            raise InputError("an SAE needs either k or a threshold, not both; give one of them")
        if self.selection is not None and (self.k is None or not (self.selection > 0).all()):
            raise InputError("an SAE's selection must be above 0 and needs k; correct it")
        if self.k is not None and not 1 <= self.k <= h:
            raise InputError(f"an SAE of {h} latents can't have {self.k} of them active per cell")

    @property
    def latents(self) -> int:
        """Number of latents h."""
        return len(self.encoder_weight)

    @property
    def channels(self) -> int:
        """Number of channels d of an embedding."""
        return self.encoder_weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.encoder_weight.device

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by name, as they are saved."""
        named = {
            "encoder_weight": self.encoder_weight,
            "encoder_bias": self.encoder_bias,
            "decoder_weight": self.decoder_weight,
            "decoder_bias": self.decoder_bias,
            "threshold": self.threshold,
            "selection": self.selection,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def to(self, device: torch.device) -> SparseAutoencoder:
        """Return the same SAE on another device."""
        moved: dict[str, Any] = {name: t.to(device) for name, t in self.tensors().items()}
        return replace(self, **moved)

    def encoder(self) -> Encoder:
        """Return an encoder that keeps its working memory between batches."""
        return Encoder(self)

    def decode(self, index: Tensor, value: Tensor) -> Tensor:
        """Return reconstructions [n, d] of codes: index and value are [n, m]."""
        return sparse.combine(index, value, self.decoder_weight) + self.decoder_bias

    def save(self, weights: Path, description: Path) -> None:
        """Write `weights` (safetensors), then `description` (JSON), each atomically."""
        tensors = {name: t.contiguous().cpu() for name, t in self.tensors().items()}
        with atomic_file(weights) as aside:
            # `save_file` would make the file readable by its owner only.
            aside.write_bytes(save(tensors))
        write_json(
            description,
            {
                **self.description,
                "format": FORMAT,
                "kind": KIND,
                "activation": "topk" if self.threshold is None else "threshold",
                "k": self.k,
                "latents": self.latents,
                "channels": self.channels,
                "weights": weights.name,
                "digest": file_digest(weights),
            },
        )

    @classmethod
    def load(cls, description: str | Path) -> SparseAutoencoder:
        """Read an SAE by its `sae.json`, or by the folder that holds it with the weights.

        Raises
        ------
        StoreError
            If there is no SAE, or a file is missing, damaged, or does not match its description.
        """
        content, arrays = read_files(description)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return cls(**tensors, k=content["k"], description=content)


class Encoder:
    """Encodes batches of embeddings with one SAE.

    Every product is float32, even where a lower precision is faster. The products decide which
    latents are active, so a lower precision would give different codes on different machines.
    The decoder's bias is subtracted from embeddings first. Raw embeddings share a large common
    part, which would use up the digits of float32 in which cells differ.
    """

    def __init__(self, sae: SparseAutoencoder) -> None:
        self._sae = sae
        self._preactivations = sparse.Preactivations(
            sae.latents, sae.channels, sae.device, torch.float32
        )
        bias = sae.encoder_weight.double() @ sae.decoder_bias.double() + sae.encoder_bias.double()
        self._bias = bias.float()
        weight, margin = sae.encoder_weight, self._bias
        if sae.threshold is not None:
            margin = margin - sae.threshold
        if sae.selection is not None:
            weight, margin = weight * sae.selection.unsqueeze(1), margin * sae.selection
        self._preactivations.load(weight, margin)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (index int64, value float32), each [n, m], of embeddings x [n, d].

        m is k, or with a threshold the largest number of active latents of a cell in the batch.
        The latents of a cell are in ascending order. Unused slots have index 0 and value 0.
        """
        sae = self._sae
        x = x.to(torch.float32) - sae.decoder_bias
        preactivation = self._preactivations(x)
        if sae.threshold is not None:
            return sparse.above(preactivation, sae.threshold)
        assert sae.k is not None  # an SAE without a threshold has k
        index = sparse.largest(preactivation, sae.k)
        value = sparse.dots(x, sae.encoder_weight, index) + self._bias[index]
        active = value > 0
        return index * active, value * active


def check_channels(sae: SparseAutoencoder, grid: LayerGrid, source: Path) -> None:
    """Refuse an SAE, read from `source`, whose number of channels differs from the layer's.

    Raises
    ------
    InputError
        If the numbers differ. The message gives both.
    """
    if sae.channels != grid.channels:
        raise InputError(
            f"{source} takes {sae.channels} channels, but layer {grid.layer} has {grid.channels}; "
            "give the SAE of this layer"
        )
