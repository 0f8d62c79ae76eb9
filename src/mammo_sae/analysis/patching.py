"""Edits the codes of a layer and runs the rest of the network from there.

Let x_j be a cell's embedding and z_jt its codes. Latents are dropped in one of three ways:

- ``spliced``: x_j is replaced by the reconstruction from the remaining latents;
- ``error_preserving``: x_j is replaced by x_j - sum_t z_jt d_t, where t runs over the dropped
  latents and d_t is the atom of t, so that the SAE's error stays;
- ``mean_ablated``: x_j is replaced by x_j - sum_t (z_jt - m_t) d_t, where m_t is the mean code of
  latent t.

The network up to the layer is not run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mammo_sae.analysis import cases as case
from mammo_sae.encoders.batches import Batch
from mammo_sae.encoders.heads import Head, load_head
from mammo_sae.encoders.network import load_encoder
from mammo_sae.encoders.networks.network import Network, to_map
from mammo_sae.progress import progress
from mammo_sae.sae import sparse
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.embeddings import EmbeddingReader

# Logits are rounded to this number of decimals. They are computed in float32, and further decimals
# would depend on the size of the batch.
_DIGITS = 4

# positions, embeddings, tokens beside them, index, value
CodedBatch = tuple[np.ndarray, Tensor, Tensor | None, Tensor, Tensor]


@dataclass(frozen=True)
class PatchedNetwork:
    """An encoder cut at `layer`, its head, and an SAE of that layer.

    `typical` [h] is each latent's mean code over the cells of the discovery split.
    """

    network: Network
    head: Head
    sae: SparseAutoencoder
    layer: str
    typical: Tensor

    @classmethod
    def load(
        cls, encoder: Path, head: Path, sae: Path, layer: str, typical: np.ndarray
    ) -> PatchedNetwork:
        """Read an encoder and its head from their directories, and an SAE from its `sae.json`."""
        return cls(
            load_encoder(encoder),
            load_head(head),
            SparseAutoencoder.load(sae),
            layer,
            torch.from_numpy(typical.astype(np.float32)),
        )

    def logits(self, cells: Tensor, prefix: Tensor | None) -> Tensor:
        """Return the logits [n, c] of embeddings [n, R, C, d] of the layer.

        `prefix` [n, t, d] are the tokens beside the cells, or None if there are none.
        """
        pooled = self.network.rest(self.layer, to_map(cells, self.network.dtype, prefix))
        weight, bias = torch.from_numpy(self.head.weight), torch.from_numpy(self.head.bias)
        return pooled @ weight.T + bias

    @torch.inference_mode()
    def edited_logits(
        self,
        cells: Tensor,
        prefix: Tensor | None,
        index: Tensor,
        value: Tensor,
        kept: Tensor,
        splice: str,
    ) -> Tensor:
        """Return the logits [n, c] with only the latents `kept` [h] left in the codes.

        Parameters
        ----------
        cells : [n, R, C, d]
        prefix : [n, t, d] or None
            The tokens beside the cells, which stay as they are.
        index, value : [n, R, C, k]
        splice
            ``spliced``, ``error_preserving`` or ``mean_ablated``.
        """
        stays = kept[index]
        changed = value * (stays if splice == "spliced" else ~stays)
        flat = sparse.combine(
            index.flatten(0, 2), changed.flatten(0, 2).contiguous(), self.sae.decoder_weight
        )
        part = flat.view(*cells.shape)
        if splice == "spliced":
            return self.logits(part + self.sae.decoder_bias, prefix)
        rest = cells.to(torch.float32) - part
        if splice == "mean_ablated":
            rest = rest + (self.typical * ~kept) @ self.sae.decoder_weight
        return self.logits(rest, prefix)

    def attribution(
        self, cells: Tensor, prefix: Tensor | None, index: Tensor, value: Tensor, concept: str
    ) -> Tensor:
        """Return [n, h]: each latent's effect on an image's logit, to first order.

        The effect is sum_j z_jt (dlogit / dx_j . d_t), from one backward pass (attribution
        patching, Nanda 2023; Syed et al., arXiv 2310.10348). It is exact if the rest of the network
        is linear.
        """
        start = cells.to(torch.float32).detach().requires_grad_()
        logit = self.logits(start, prefix)[:, self.head.row(concept)].sum()
        (slope,) = torch.autograd.grad(logit, start)
        slope = slope.flatten(0, 2)
        # One pass per active latent of a cell: the atoms of all k together would need k times the
        # memory of the embeddings.
        along = [
            (slope * self.sae.decoder_weight[slot]).sum(1)
            for slot in index.flatten(0, 2).unbind(dim=1)
        ]
        share = value.flatten(0, 2) * torch.stack(along, dim=1)
        result = torch.zeros(len(cells), self.sae.latents)
        return result.scatter_add_(
            1, index.reshape(len(cells), -1), share.reshape(len(cells), -1).to(result.dtype)
        )


class Reruns:
    """One concept's logits of the images of `source` after edits of the codes.

    Each edit runs the rest of the network.

    Attributes
    ----------
    labels : [n] bool
    patients : [n]
    unknown
        Why the latents' mean codes are not known, or ``""``.
    """

    def __init__(
        self,
        cut: PatchedNetwork,
        source: EmbeddingReader,
        codes: CodesReader,
        cases: pd.DataFrame,
        concept: str,
        batch_size: int,
        unknown: str,
    ) -> None:
        self._cut, self._source, self._codes = cut, source, codes
        self._concept, self._batch = concept, batch_size
        self._positions = np.array([codes.position(image) for image in source.image_ids])
        self._done: dict[tuple[str, bytes], np.ndarray] = {}
        self.latents = codes.latents
        self.unknown = unknown
        self.labels = case.labels(cases, concept, self._positions)
        self.patients = cases["patient_id"].to_numpy()[self._positions]

    def logits(self, kept: np.ndarray, splice: str) -> np.ndarray:
        """Return the logits [n, e] of `e` edits. `kept` [h, e] is True for latents that stay.

        Edits that were computed by an earlier call are not computed again.
        """
        keys = [(splice, np.packbits(column).tobytes()) for column in kept.T]
        fresh = {key: e for e, key in enumerate(keys) if key not in self._done}
        if fresh:
            self._done |= {key: np.empty(len(self._source)) for key in fresh}
            row = self._cut.head.row(self._concept)
            stays = {key: torch.from_numpy(kept[:, e].copy()) for key, e in fresh.items()}
            for positions, cells, prefix, index, value in self._batches(splice):
                for key in fresh:
                    edited = self._cut.edited_logits(
                        cells, prefix, index, value, stays[key], splice
                    )
                    self._done[key][positions] = edited[:, row].numpy()
        return np.round(np.stack([self._done[key] for key in keys], axis=1), _DIGITS)

    def attribution(self) -> np.ndarray:
        """Return float32 [n, h]: each latent's effect on each image's logit, to first order."""
        result = np.zeros((len(self._source), self.latents), np.float32)
        for positions, cells, prefix, index, value in self._batches("attribution"):
            found = self._cut.attribution(cells, prefix, index, value, self._concept)
            result[positions] = found.numpy()
        return result

    def ablation(self, latents: np.ndarray) -> np.ndarray:
        """Return [n, m]: the decrease of each image's logit when one of `latents` is dropped."""
        kept = np.ones((self.latents, 1 + len(latents)), dtype=bool)
        kept[latents, 1 + np.arange(len(latents))] = False
        logits = self.logits(kept, "error_preserving")
        return logits[:, :1] - logits[:, 1:]

    def _batches(self, label: str) -> Iterator[CodedBatch]:
        for positions, cells in progress(
            self._source.batches(self._batch),
            label=f"{self._concept}, {label}",
            total=-(-len(self._source) // self._batch),
        ):
            index, value = map(torch.from_numpy, self._codes.cells(self._positions[positions]))
            batch = Batch.of(cells, self._source.prefix(positions))
            yield positions, batch.values, batch.prefix, index.long(), value
