"""Operations on atoms of unit norm; each row is read once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _tangent(gradient, atoms, channels, CHANNELS: tl.constexpr):
    channel = tl.arange(0, CHANNELS)
    inside = channel < channels
    place = tl.program_id(0).to(tl.int64) * channels + channel
    slope = tl.load(gradient + place, mask=inside, other=0)
    atom = tl.load(atoms + place, mask=inside, other=0)
    tl.store(gradient + place, slope - atom * tl.sum(slope * atom), mask=inside)


@triton.jit
def _unit(atoms, channels, CHANNELS: tl.constexpr):
    channel = tl.arange(0, CHANNELS)
    inside = channel < channels
    place = tl.program_id(0).to(tl.int64) * channels + channel
    atom = tl.load(atoms + place, mask=inside, other=0)
    tl.store(atoms + place, atom / tl.sqrt(tl.sum(atom * atom)), mask=inside)


def _shape(rows: Tensor) -> dict[str, int]:
    width = triton.next_power_of_2(rows.shape[1])
    return {"CHANNELS": width, "num_warps": min(max(1, width // 512), 16)}


def tangent_(gradient: Tensor, atoms: Tensor) -> None:
    """Remove from each row of gradient [h, d] the part along its unit-norm atom, in place."""
    _tangent[(len(atoms),)](gradient, atoms, atoms.shape[1], **_shape(atoms))


def unit_(atoms: Tensor) -> None:
    """Divide each row of atoms [h, d] by its Euclidean norm, in place."""
    _unit[(len(atoms),)](atoms, atoms.shape[1], **_shape(atoms))
