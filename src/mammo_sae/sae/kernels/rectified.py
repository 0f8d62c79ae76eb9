"""The ReLU of a dense [n, h] array and its gradient, each in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# One program computes ROWS rows of LATENTS latents, TILE rows at a time.
ROWS, TILE, LATENTS = 128, 16, 128


@triton.jit
def _rectify(
    codes, sums, counts, n, latents, ROWS: tl.constexpr, TILE: tl.constexpr, LATENTS: tl.constexpr
):
    latent = tl.program_id(0) * LATENTS + tl.arange(0, LATENTS)
    part = tl.program_id(1)
    total = tl.zeros([TILE, LATENTS], tl.float32)
    count = tl.zeros([TILE, LATENTS], tl.int32)
    for start in range(0, ROWS, TILE):
        row = part * ROWS + start + tl.arange(0, TILE)
        inside = (row < n)[:, None] & (latent < latents)[None, :]
        place = row.to(tl.int64)[:, None] * latents + latent[None, :]
        before = tl.load(codes + place, mask=inside, other=0).to(tl.float32)
        # The comparison `before > 0` would drop a NaN, which must reach the loss.
        code = tl.where(before <= 0, 0.0, before)
        tl.store(codes + place, code.to(codes.dtype.element_ty), mask=inside)
        total += code
        count += (code > 0).to(tl.int32)
    tl.store(sums + part * tl.num_programs(0) + tl.program_id(0), tl.sum(total))
    place = part.to(tl.int64) * latents + latent
    tl.store(counts + place, tl.sum(count, axis=0), mask=latent < latents)


@triton.jit
def _through(
    gradient,
    codes,
    constant,
    sums,
    n,
    latents,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    LATENTS: tl.constexpr,
):
    latent = tl.program_id(0) * LATENTS + tl.arange(0, LATENTS)
    part = tl.program_id(1)
    total = tl.zeros([TILE, LATENTS], tl.float32)
    for start in range(0, ROWS, TILE):
        row = part * ROWS + start + tl.arange(0, TILE)
        inside = (row < n)[:, None] & (latent < latents)[None, :]
        place = row.to(tl.int64)[:, None] * latents + latent[None, :]
        above = tl.load(gradient + place, mask=inside, other=0).to(tl.float32) + constant
        code = tl.load(codes + place, mask=inside, other=0).to(tl.float32)
        below = tl.where(code > 0, above, 0.0).to(gradient.dtype.element_ty)
        tl.store(gradient + place, below, mask=inside)
        total += below.to(tl.float32)
    place = part.to(tl.int64) * latents + latent
    tl.store(sums + place, tl.sum(total, axis=0), mask=latent < latents)


def rectify_(preactivation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Set the entries below 0 of preactivation [n, h] (any floating type) to 0, in place.

    Returns
    -------
    tuple
        The sum of the other entries, float32; the number of entries above 0; bool [h], True for
        each latent that has an entry above 0.
    """
    n, latents = preactivation.shape
    columns, parts = triton.cdiv(latents, LATENTS), triton.cdiv(n, ROWS)
    sums = torch.empty(parts, columns, dtype=torch.float32, device=preactivation.device)
    counts = torch.empty(parts, latents, dtype=torch.int32, device=preactivation.device)
    _rectify[(columns, parts)](
        preactivation, sums, counts, n, latents, ROWS=ROWS, TILE=TILE, LATENTS=LATENTS
    )
    return sums.sum(), counts.sum(), counts.any(dim=0)


def through_(gradient: Tensor, codes: Tensor, constant: float) -> Tensor:
    """Add `constant` to gradient [n, h] where codes [n, h] > 0; set the rest to 0, in place.

    Returns
    -------
    Tensor
        The sums over cells, float32 [h].
    """
    n, latents = codes.shape
    columns, parts = triton.cdiv(latents, LATENTS), triton.cdiv(n, ROWS)
    sums = torch.empty(parts, latents, dtype=torch.float32, device=codes.device)
    _through[(columns, parts)](
        gradient, codes, constant, sums, n, latents, ROWS=ROWS, TILE=TILE, LATENTS=LATENTS
    )
    return sums.sum(dim=0)
