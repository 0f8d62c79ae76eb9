"""Sums over the cells in which a latent is active, for all latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from mammo_sae.sae.kernels.products import WIDEST

# Largest number of slots that one program adds up. A few latents have up to a hundred times more.
PIECE = 128


@dataclass(frozen=True)
class Pieces:
    """The slots of latents, cut into pieces of at most `PIECE` slots of one latent each.

    Attributes
    ----------
    first [h + 1]
        The number of each latent's first piece. The last entry is the number of pieces. A latent
        without slots has one empty piece.
    owner [h + n k // PIECE]
        The latent of each piece; h for entries past the last piece. The length is the largest
        possible number of pieces, so the CPU need not wait for the actual number.
    """

    first: Tensor
    owner: Tensor

    @classmethod
    def of(cls, start: Tensor, slots: int) -> Pieces:
        """Return the pieces of `slots` slots. start [h + 1] tells where a latent's slots begin."""
        latents = len(start) - 1
        count = (start.diff() + (PIECE - 1)).div_(PIECE, rounding_mode="floor").clamp_(min=1)
        first = torch.zeros_like(start)
        torch.cumsum(count, 0, out=first[1:])
        number = torch.arange(latents + slots // PIECE, device=start.device)
        return cls(first, torch.searchsorted(first, number, right=True) - 1)


@triton.jit
def _sum_pieces(
    owner,
    first,
    start,
    slot,
    cell,
    value,
    x,
    out,
    rest,
    latents,
    channels,
    stride,
    PIECE: tl.constexpr,
    SLOTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    piece = tl.program_id(0).to(tl.int64)
    latent = tl.load(owner + piece)
    if latent < latents:
        channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        inside = channel < channels
        later = piece - tl.load(first + latent)
        begin = tl.load(start + latent) + later * PIECE
        end = tl.minimum(begin + PIECE, tl.load(start + latent + 1))
        sums = tl.zeros([SLOTS, CHANNELS], tl.float32)
        for at in range(begin, end, SLOTS):
            place = at + tl.arange(0, SLOTS)
            taken = place < end
            number = tl.load(slot + place, mask=taken, other=0)
            amount = tl.load(value + number, mask=taken, other=0)
            row = tl.load(cell + place, mask=taken, other=0)
            wanted = (amount != 0)[:, None] & inside[None, :]
            rows = tl.load(x + row[:, None] * stride + channel[None, :], mask=wanted, other=0)
            sums += amount[:, None] * rows.to(tl.float32)
        # A latent's first piece is written to the result, its others to `rest`.
        target = rest + (piece - latent - 1) * channels if later else out + latent * channels
        tl.store(target + channel, tl.sum(sums, axis=0), mask=inside)


@triton.jit
def _join_pieces(first, rest, out, channels, CHANNELS: tl.constexpr):
    latent = tl.program_id(0).to(tl.int64)
    begin = tl.load(first + latent) + 1
    end = tl.load(first + latent + 1)
    if begin < end:
        channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        inside = channel < channels
        sums = tl.load(out + latent * channels + channel, mask=inside, other=0)
        for piece in range(begin, end):
            place = (piece - latent - 1) * channels + channel
            sums += tl.load(rest + place, mask=inside, other=0)
        tl.store(out + latent * channels + channel, sums, mask=inside)


def sum_by_latent(
    slot: Tensor, cell: Tensor, start: Tensor, pieces: Pieces, value: Tensor, x: Tensor
) -> Tensor:
    """Return [h, d] float32: for each latent, the sum of value * x[cell] over its slots.

    Some latents have a thousand times as many slots as others. So each program sums one piece, and
    a second pass adds up the pieces of each latent that has several pieces.

    Parameters
    ----------
    slot, cell, start
        As in `mammo_sae.sae.sparse.ByLatent`.
    value : [n, k] float32
    x : [n, d]
        Any floating type; the last axis must be contiguous.
    """
    latents, channels = len(start) - 1, x.shape[1]
    out = torch.empty(latents, channels, dtype=torch.float32, device=x.device)
    rest = torch.empty(len(slot) // PIECE, channels, dtype=torch.float32, device=x.device)
    width = min(triton.next_power_of_2(channels), WIDEST)
    slots = 8 if width > 1 else PIECE
    blocks = triton.cdiv(channels, width)
    _sum_pieces[(len(pieces.owner), blocks)](
        pieces.owner,
        pieces.first,
        start,
        slot,
        cell,
        value.contiguous(),
        x,
        out,
        rest,
        latents,
        channels,
        x.stride(0),
        PIECE=PIECE,
        SLOTS=slots,
        CHANNELS=width,
        num_warps=max(1, slots * width // 1024),
    )
    _join_pieces[(latents, blocks)](pieces.first, rest, out, channels, CHANNELS=width)
    return out
