"""Products with few active latents per cell, without a dense [cells, h] array of floats.

The codes of n cells are a pair `index` [n, k] and `value` [n, k]. The reconstruction of cell i is
the sum over slots s of value[i, s] times row index[i, s] of a dictionary [h, d]. An unused slot has
index 0 and value 0. In training, the dense product that finds the active latents may run in
bfloat16 (`product_type`). Values and gradients are then computed in float32 for the k active
latents only.

On a GPU with Triton, `mammo_sae.sae.kernels` computes the products; elsewhere torch does. With
Triton's interpreter (TRITON_INTERPRET=1), tensors on the CPU use the kernels too.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mammo_sae.compute.devices import product_type

# Instead of whole rows, `topk` reads the maxima of groups of GROUP entries, taken LEVELS times.
GROUP = 4
LEVELS = 2
# On a GPU, rows are padded to a multiple of 16 entries, so that 16 bytes are read at a time.
ALIGNED = 16
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


class Preactivations:
    """Computes x W^T + b for batches of cells, in memory that is reused by later calls.

    The bias is one more column of W, and x has a column of ones. This takes less time than a second
    pass over the [n, h] result. Allocating a new result would take as long as the product.

    Parameters
    ----------
    dtype
        Type of the product; `product_type(device)` if None.
    """

    def __init__(
        self, latents: int, channels: int, device: torch.device, dtype: torch.dtype | None = None
    ) -> None:
        self.dtype = dtype or product_type(device)
        self._channels, width = channels, channels + 1
        if device.type != "cpu":
            width = -(-width // ALIGNED) * ALIGNED
        self._weight = torch.zeros(latents, width, dtype=self.dtype, device=device)
        self._input = torch.empty(0, width, dtype=self.dtype, device=device)
        self._output = torch.empty(0, latents, dtype=self.dtype, device=device)

    def load(self, weight: Tensor, bias: Tensor) -> None:
        """Set the weight [h, d] and bias [h] of later calls."""
        self._weight[:, : self._channels].copy_(weight)
        self._weight[:, self._channels].copy_(bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Return pre-activations [n, h] of cells x [n, d]. The next call overwrites the result."""
        n = len(x)
        if n > len(self._input):
            self._input = self._input.new_ones(n, self._input.shape[1])
            self._output = self._output.new_empty(n, self._output.shape[1])
        self._input[:n, : self._channels].copy_(x)
        return torch.mm(self._input[:n], self._weight.t(), out=self._output[:n])

    def rounded(self, x: Tensor) -> Tensor:
        """Return x in the number type in which sparse products should read it.

        The time of the kernels is that of reading memory. So they read x in the type of the dense
        product, which can have half the bytes, and multiply and add in float32. Where torch
        computes the products, x is returned unchanged.
        """
        return x if _kernels(x) is None else x.to(self.dtype)

    def cells(self, x: Tensor) -> Tensor:
        """Return `rounded(x)` for the x [n, d] of the last call, without rounding it again."""
        return x if _kernels(x) is None else self._input[: len(x), : self._channels]

    def rows(self, weight: Tensor) -> Tensor:
        """Return `rounded(weight)` [h, d] of the last `load`, without rounding it again."""
        return weight if _kernels(weight) is None else self._weight[:, : self._channels]


@cache
def _imported() -> ModuleType | None:
    try:
        from mammo_sae.sae import kernels
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        return None
    return kernels


def _kernels(x: Tensor) -> ModuleType | None:
    """Return `mammo_sae.sae.kernels` if it can compute with x, else None."""
    return _imported() if x.device.type == "cuda" or INTERPRETED else None


def largest(preactivation: Tensor, k: int) -> Tensor:
    """Return the indices [n, k] of the k largest entries of each row, in ascending order.

    Entries of 0 and below are inactive latents. If fewer than k entries are above 0, any of the
    others complete the k.
    """
    if (kernels := _kernels(preactivation)) and k <= kernels.MOST:
        return kernels.largest(preactivation, k)
    keys = preactivation
    if keys.device.type == "cpu":
        # Positive floats sort like their bit patterns, and integers are compared faster.
        keys = keys.view(torch.int16 if keys.dtype == torch.bfloat16 else torch.int32)
    index = _narrowed(keys, k) if keys.device.type == "cpu" else _topk(keys, k)
    return index.sort(dim=1).values


def only_largest(values: Tensor, k: int) -> Tensor:
    """Return values [n, m] (none below 0) with all but the k largest of each row set to 0.

    The argument may be overwritten.
    """
    if (kernels := _kernels(values)) and values.shape[1] <= kernels.LONGEST:
        kernels.only_largest_(values, k)
        return values
    kept = largest(values, k)
    return torch.zeros_like(values).scatter_(1, kept, values.gather(1, kept))


def above(margin: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Return index and value [n, m] of the latents whose pre-activation is above the threshold.

    `margin` [n, h] is pre-activation minus `threshold` [h], and the value is the pre-activation. m
    is the largest number of such latents in a row, at least 1. Unused slots have index 0 and value
    0.
    """
    row, latent = torch.nonzero(margin > 0, as_tuple=True)
    count = torch.bincount(row, minlength=len(margin))
    most = max(1, int(count.max())) if len(count) else 1
    slot = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    index = latent.new_zeros(len(margin), most)
    value = margin.new_zeros(len(margin), most)
    index[row, slot] = latent
    value[row, slot] = margin[row, latent] + threshold[latent]
    return index, value


def _topk(keys: Tensor, k: int) -> Tensor:
    return keys.topk(k, dim=1, sorted=False).indices


def _narrowed(keys: Tensor, k: int) -> Tensor:
    """Return the indices [n, k] of the k largest entries of each row, by maxima of groups.

    The k largest entries are in the k groups with the largest maxima. So `topk` runs over the
    maxima, then over the members of the k groups, and most entries are read once. A group
    consists of every (h / GROUP)-th latent, so the maxima are plain vector operations.
    """
    levels = [keys]
    while (
        len(levels) <= LEVELS
        and levels[-1].shape[1] % GROUP == 0
        and levels[-1].shape[1] >= 2 * GROUP * k
    ):
        last = levels[-1]
        levels.append(last.view(len(last), GROUP, -1).amax(dim=1))
    index = _topk(levels.pop(), k)
    while levels:
        level = levels.pop()
        groups = level.shape[1] // GROUP
        member = torch.arange(0, level.shape[1], groups, device=keys.device)
        candidates = (index.unsqueeze(1) + member.unsqueeze(1)).flatten(1)
        index = candidates.gather(1, _topk(level.gather(1, candidates), k))
    return index


def dots(x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """Return [n, k]: the dot products x[i] . weight[index[i, s]], float32.

    The indices of a row must ascend, without repetition.
    """
    if kernels := _kernels(x):
        return kernels.dots(x, weight, index)
    n, k = index.shape
    pattern = torch.sparse_csr_tensor(
        torch.arange(0, n * k + 1, k, device=x.device),
        index.flatten(),
        torch.zeros(n * k, device=x.device),
        (n, len(weight)),
        check_invariants=False,
    )
    return torch.sparse.sampled_addmm(pattern, x, weight.t(), beta=0).values().view(n, k)


def combine(index: Tensor, value: Tensor, dictionary: Tensor) -> Tensor:
    """Return [n, d]: sum over s of value[i, s] * dictionary[index[i, s]]."""
    if kernels := _kernels(value):
        return kernels.combine(index, value, dictionary)
    return F.embedding_bag(index, dictionary, per_sample_weights=value, mode="sum")


def residual(
    index: Tensor, value: Tensor, dictionary: Tensor, bias: Tensor, target: Tensor
) -> Tensor:
    """Return [n, d]: `combine` plus bias [d] minus target [n, d]."""
    if kernels := _kernels(value):
        return kernels.residual(index, value, dictionary, bias, target)
    return combine(index, value, dictionary).add_(bias).sub_(target)


def rectify_(preactivation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Set the entries below 0 of preactivation [n, h] to 0, in place.

    Returns the sum of the other entries (float32), the number of entries above 0, and for each
    latent whether it has an entry above 0 (bool [h]).
    """
    if kernels := _kernels(preactivation):
        return kernels.rectify_(preactivation)
    active = preactivation.clamp_(min=0) > 0
    return preactivation.sum(dtype=torch.float32), active.sum(), active.any(dim=0)


def through_rectified_(gradient: Tensor, codes: Tensor, constant: float) -> Tensor:
    """Add `constant` to gradient [n, h] where codes [n, h] > 0; set the rest to 0, in place.

    Returns the sums over cells, float32 [h].
    """
    if kernels := _kernels(codes):
        return kernels.through_(gradient, codes, constant)
    return gradient.add_(constant).mul_(codes > 0).sum(dim=0, dtype=torch.float32)


def tangent_(gradient: Tensor, atoms: Tensor) -> None:
    """Remove from each row of gradient [h, d] the part along its unit-norm atom, in place."""
    if kernels := _kernels(atoms):
        kernels.tangent_(gradient, atoms)
    else:
        gradient.addcmul_(atoms, torch.linalg.vecdot(gradient, atoms).unsqueeze(1), value=-1)


def unit_(atoms: Tensor) -> None:
    """Divide each row of atoms [h, d] by its Euclidean norm, in place."""
    if kernels := _kernels(atoms):
        kernels.unit_(atoms)
    else:
        atoms /= torch.linalg.vector_norm(atoms, dim=1, keepdim=True)


@dataclass(frozen=True)
class ByLatent:
    """The slots of codes ordered by latent, for sums over cells.

    Attributes
    ----------
    slot [n * k]
        Positions of the slots in the flattened [n, k] arrays, ordered by latent, then by cell.
    cell [n * k]
        The cell of each of these slots.
    start [h + 1]
        The position in `slot` at which each latent's slots begin. The last entry is n * k.
    """

    slot: Tensor
    cell: Tensor
    start: Tensor

    @classmethod
    def of(cls, index: Tensor, latents: int) -> ByLatent:
        """Return the slots of `index` [n, k], ordered by latent."""
        flat = index.flatten()
        # torch sorts 16-bit keys by radix, which is faster.
        keys = flat.to(torch.int16) if latents <= 1 << 15 else flat
        ordered, slot = keys.sort(stable=True)
        if flat.device.type == "cpu":
            start = flat.new_zeros(latents + 1)
            torch.cumsum(torch.bincount(flat, minlength=latents), 0, out=start[1:])
        else:
            # bincount would make the CPU wait for the GPU.
            every = torch.arange(latents + 1, dtype=torch.int32, device=flat.device)
            start = torch.searchsorted(ordered.to(torch.int32), every)
        return cls(slot, slot // index.shape[1], start)

    @cached_property
    def _pieces(self) -> Any:
        kernels = _imported()
        assert kernels is not None  # only the kernels ask for pieces
        return kernels.Pieces.of(self.start, len(self.slot))

    def sum(self, value: Tensor, x: Tensor) -> Tensor:
        """Return [h, d]: per latent j, the sum of value[i, s] * x[i] over its slots."""
        if kernels := _kernels(x):
            slots = (self.slot, self.cell, self.start, self._pieces)
            return kernels.sum_by_latent(*slots, value, x)
        return F.embedding_bag(
            self.cell,
            x,
            self.start,
            per_sample_weights=value.flatten()[self.slot],
            mode="sum",
            include_last_offset=True,
        )

    def total(self, value: Tensor) -> Tensor:
        """Return [h]: per latent, the sum of its values [n, k]."""
        return self.sum(value, value.new_ones(len(value), 1)).squeeze(1)
