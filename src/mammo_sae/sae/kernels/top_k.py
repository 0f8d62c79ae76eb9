"""The k largest entries of each row: their indices, or the row with all other entries set to 0."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# The largest k of `largest`. The candidates of a larger k would not fit a program's registers.
MOST = 128
# The longest row that one program of `only_largest_` can hold.
LONGEST = 1 << 15


@triton.jit
def _packed(key, latent, inside, WIDE: tl.constexpr):
    """Return integers that sort by key and, among equal keys, by descending latent.

    Entries outside the row get the smallest integer, which decodes to the highest latent.
    """
    if WIDE:
        packed = tl.where(inside, (key.to(tl.int64) << 32) | (0x7FFFFFFF - latent), -(1 << 63))
    else:
        packed = tl.where(inside, (key.to(tl.int32) << 16) | (0xFFFF - latent), -(1 << 31))
    return packed


@triton.jit
def _latent(packed, WIDE: tl.constexpr):
    """Return the latents of packed integers, int32."""
    HIGHEST: tl.constexpr = 0x7FFFFFFF if WIDE else 0xFFFF
    return HIGHEST - (packed & HIGHEST).to(tl.int32)


@triton.jit
def _largest(
    rows,
    out,
    latents,
    groups,
    k,
    MEMBERS: tl.constexpr,
    GROUPS: tl.constexpr,
    KEPT: tl.constexpr,
    WIDE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    rows += row * latents
    LEAST: tl.constexpr = -(1 << 31) if rows.dtype.element_ty == tl.int32 else -(1 << 15)
    group = tl.arange(0, GROUPS)
    highest = tl.load(rows + group, mask=group < groups, other=LEAST)
    for member in tl.static_range(1, MEMBERS):
        latent = member * groups + group
        inside = (group < groups) & (latent < latents)
        highest = tl.maximum(highest, tl.load(rows + latent, mask=inside, other=LEAST))
    best = tl.topk(_packed(highest, group, group < groups, WIDE), KEPT)

    # The k largest entries lie in the KEPT >= k groups of largest maximum.
    group = _latent(best, WIDE)
    member = tl.arange(0, MEMBERS)
    latent = member[:, None] * groups + group[None, :]
    inside = (group < groups)[None, :] & (latent < latents)
    keys = tl.load(rows + latent, mask=inside, other=LEAST)
    candidates = tl.reshape(_packed(keys, latent, inside, WIDE), [MEMBERS * KEPT])
    place = tl.arange(0, KEPT)
    latent = tl.where(place < k, _latent(tl.topk(candidates, KEPT), WIDE), 0x7FFFFFFF)
    tl.store(out + row * k + place, tl.sort(latent).to(tl.int64), mask=place < k)


@triton.jit
def _only_largest(rows, length, k, BITS: tl.constexpr, LENGTH: tl.constexpr):
    rows += tl.program_id(0).to(tl.int64) * length
    place = tl.arange(0, LENGTH)
    key = tl.load(rows + place, mask=place < length, other=0)
    # Find the k-th largest key bit by bit: the highest bound that at least k keys reach.
    bound = tl.zeros([], tl.int32)
    for bit in tl.static_range(BITS):
        tried = bound | (1 << (BITS - 1 - bit))
        bound = tl.where(tl.sum((key >= tried).to(tl.int32)) >= k, tried, bound)
    left = k - tl.sum((key > bound).to(tl.int32))
    same = (key == bound) & (place < length)
    kept = (key > bound) | (same & (tl.cumsum(same.to(tl.int32)) <= left))
    tl.store(rows + place, tl.where(kept, key, 0), mask=place < length)


def largest(preactivation: Tensor, k: int) -> Tensor:
    """Return the indices [n, k] int64 of the k largest entries of each row, in ascending order.

    Entries of 0 and below are inactive latents. If fewer than k entries are above 0, any of the
    others complete the k.
    One pass over the row finds the maxima of groups. Among equal maxima, the group with the lowest
    latent is chosen. Then only the k groups with the largest maxima are read, from the cache. A
    group consists of every g-th latent, so the maxima are plain vector operations.

    Parameters
    ----------
    preactivation : [n, h] bfloat16 or float32
    k
        At most h and `MOST`.
    """
    n, latents = preactivation.shape
    kept = max(triton.next_power_of_2(k), 2)
    # Groups and candidates together are fewest where their numbers are equal.
    members = 1
    while 4 * members * members * kept <= latents:
        members *= 2
    groups = triton.cdiv(latents, members)
    out = torch.empty(n, k, dtype=torch.int64, device=preactivation.device)
    # Positive floats order like their bit patterns.
    narrow = preactivation.dtype == torch.bfloat16
    _largest[(n,)](
        preactivation.contiguous().view(torch.int16 if narrow else torch.int32),
        out,
        latents,
        groups,
        k,
        MEMBERS=members,
        GROUPS=max(triton.next_power_of_2(groups), kept),
        KEPT=kept,
        WIDE=not narrow or latents > 1 << 16,
        num_warps=4,
    )
    return out


def only_largest_(values: Tensor, k: int) -> None:
    """Set all but the k largest entries of each row to 0, in place.

    The result is exact. Among entries equal to the k-th largest, the first ones stay.

    Parameters
    ----------
    values : [n, m] bfloat16 or float32, contiguous, none below 0
        m is at most `LONGEST`.
    """
    n, length = values.shape
    narrow = values.dtype == torch.bfloat16
    width = triton.next_power_of_2(length)
    _only_largest[(n,)](
        # Floats that are not negative order like their bit patterns.
        values.view(torch.int16 if narrow else torch.int32),
        length,
        k,
        BITS=15 if narrow else 31,
        LENGTH=width,
        num_warps=min(max(1, width // 1024), 16),
    )
