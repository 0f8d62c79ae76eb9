"""Sparse products: of each cell with the rows of a matrix that belong to its active latents."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Most channels of a row that one program holds.
WIDEST = 1024


@triton.jit
def _dots(
    x,
    weight,
    index,
    out,
    k,
    channels,
    x_stride,
    weight_stride,
    SLOTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    cell = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1) * SLOTS + tl.arange(0, SLOTS)
    latent = tl.load(index + cell * k + slot, mask=slot < k, other=0)
    rows = weight + latent[:, None] * weight_stride
    # Keep one sum per thread; add them up once, after the loop.
    sums = tl.zeros([SLOTS, CHANNELS], tl.float32)
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        inside = channel < channels
        ours = tl.load(x + cell * x_stride + channel, mask=inside, other=0)
        theirs = tl.load(rows + channel[None, :], mask=inside[None, :], other=0)
        sums += ours.to(tl.float32)[None, :] * theirs.to(tl.float32)
    tl.store(out + cell * k + slot, tl.sum(sums, axis=1), mask=slot < k)


@triton.jit
def _combine(
    index,
    value,
    dictionary,
    bias,
    target,
    out,
    k,
    channels,
    stride,
    RESIDUAL: tl.constexpr,
    SLOTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    cell = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    sums = tl.zeros([SLOTS, CHANNELS], tl.float32)
    for start in range(0, k, SLOTS):
        slot = start + tl.arange(0, SLOTS)
        amount = tl.load(value + cell * k + slot, mask=slot < k, other=0)
        latent = tl.load(index + cell * k + slot, mask=slot < k, other=0)
        # Rows of unused slots are not read.
        wanted = (amount != 0)[:, None] & inside[None, :]
        rows = tl.load(
            dictionary + latent[:, None] * stride + channel[None, :], mask=wanted, other=0
        )
        sums += amount[:, None] * rows.to(tl.float32)
    rebuilt = tl.sum(sums, axis=0)
    if RESIDUAL:
        rebuilt += tl.load(bias + channel, mask=inside, other=0)
        rebuilt -= tl.load(target + cell * channels + channel, mask=inside, other=0)
    tl.store(out + cell * channels + channel, rebuilt, mask=inside)


def dots(x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """Return [n, k] float32: the dot products x[i] . weight[index[i, s]].

    Parameters
    ----------
    x, weight : [n, d], [h, d]
        Any floating type; the last axis must be contiguous. Products and sums are float32.
    index : [n, k] int64
    """
    n, k = index.shape
    channels = x.shape[1]
    index = index.contiguous()
    out = torch.empty(n, k, dtype=torch.float32, device=x.device)
    slots = min(triton.next_power_of_2(k), 32)
    _dots[(n, triton.cdiv(k, slots))](
        x,
        weight,
        index,
        out,
        k,
        channels,
        x.stride(0),
        weight.stride(0),
        SLOTS=slots,
        CHANNELS=128,
        num_warps=4,
    )
    return out


def combine(index: Tensor, value: Tensor, dictionary: Tensor) -> Tensor:
    """Return [n, d] float32: sum over s of value[i, s] * dictionary[index[i, s]].

    One block of channels is computed for all cells before the next block. So the part of the
    dictionary that is in use stays in the cache.

    Parameters
    ----------
    index, value : [n, k] int64, float32
        A slot of value 0 may have any index below h.
    dictionary : [h, d]
        Any floating type; the last axis must be contiguous.
    """
    return _combined(index, value, dictionary, None, None)


def residual(
    index: Tensor, value: Tensor, dictionary: Tensor, bias: Tensor, target: Tensor
) -> Tensor:
    """Return [n, d] float32: the result of `combine` plus bias [d] minus target [n, d].

    Bias and target are float32 and contiguous.
    """
    return _combined(index, value, dictionary, bias, target)


def _combined(
    index: Tensor, value: Tensor, dictionary: Tensor, bias: Tensor | None, target: Tensor | None
) -> Tensor:
    n, k = index.shape
    channels = dictionary.shape[1]
    index, value = index.contiguous(), value.contiguous()
    out = torch.empty(n, channels, dtype=torch.float32, device=value.device)
    width, slots = min(triton.next_power_of_2(channels), WIDEST), 4
    _combine[(n, triton.cdiv(channels, width))](
        index,
        value,
        dictionary,
        bias,
        target,
        out,
        k,
        channels,
        dictionary.stride(0),
        RESIDUAL=target is not None,
        SLOTS=slots,
        CHANNELS=width,
        num_warps=max(1, slots * width // 1024),
    )
    return out
