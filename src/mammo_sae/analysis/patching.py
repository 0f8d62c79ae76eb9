"""Editing the codes of a layer and running the rest of the network from there.

With x_j a cell's embedding and z_jt its codes, dropping latents either replaces x_j by the edited
reconstruction (``spliced``) or subtracts the dropped latents' share, x_j - sum_t z_jt d_t, so that
the SAE's error stays (``error_preserving``). Nothing before the layer runs again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mammo_sae.encoders.heads import Head
from mammo_sae.encoders.network import Network, to_map
from mammo_sae.sae import sparse
from mammo_sae.sae.model import SparseAutoencoder


@dataclass(frozen=True)
class PatchedNetwork:
    """An encoder cut at `layer`, its head, and an SAE of that layer."""

    network: Network
    head: Head
    sae: SparseAutoencoder
    layer: str

    def logits(self, cells: Tensor) -> Tensor:
        """Return the logits [n, c] of embeddings [n, R, C, d] of the layer."""
        pooled = self.network.rest(self.layer, to_map(cells, self.network.dtype))
        weight, bias = torch.from_numpy(self.head.weight), torch.from_numpy(self.head.bias)
        return pooled @ weight.T + bias

    @torch.inference_mode()
    def edited_logits(
        self, cells: Tensor, index: Tensor, value: Tensor, kept: Tensor, splice: str
    ) -> Tensor:
        """Return the logits [n, c] with only the latents `kept` [h] left in the codes.

        Parameters
        ----------
        cells : [n, R, C, d]
        index, value : [n, R, C, k]
        splice
            ``spliced`` or ``error_preserving``.
        """
        stays = kept[index]
        changed = value * (stays if splice == "spliced" else ~stays)
        flat = sparse.combine(
            index.flatten(0, 2), changed.flatten(0, 2).contiguous(), self.sae.decoder_weight
        )
        part = flat.view(*cells.shape)
        if splice == "spliced":
            return self.logits(part + self.sae.decoder_bias)
        return self.logits(cells.to(torch.float32) - part)

    def attribution(self, cells: Tensor, index: Tensor, value: Tensor, concept: str) -> Tensor:
        """Return [n, h]: each latent's effect on an image's logit, to first order.

        sum_j z_jt (dlogit / dx_j . d_t), from one backward pass (attribution patching, Nanda 2023;
        Syed et al., arXiv 2310.10348). Exact where the rest of the network is linear.
        """
        start = cells.to(torch.float32).detach().requires_grad_()
        logit = self.logits(start)[:, self.head.row(concept)].sum()
        (slope,) = torch.autograd.grad(logit, start)
        slope = slope.flatten(0, 2)
        # Slot by slot: the atoms of all slots at once would be k times the embeddings.
        along = [
            (slope * self.sae.decoder_weight[slot]).sum(1)
            for slot in index.flatten(0, 2).unbind(dim=1)
        ]
        share = value.flatten(0, 2) * torch.stack(along, dim=1)
        result = torch.zeros(len(cells), self.sae.latents)
        return result.scatter_add_(
            1, index.reshape(len(cells), -1), share.reshape(len(cells), -1).to(result.dtype)
        )
