"""Where networks and SAEs run, and in which type their products are fastest there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def fastest_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def product_type(device: torch.device) -> torch.dtype:
    """Return bfloat16 where `device` multiplies it faster than float32, else float32.

    A property of the processor, not a measurement: a choice that hangs on what else the machine is
    doing would not give the same bytes twice.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        units = torch.cpu.get_capabilities()
        # Matrix units always pay. AVX-512's instruction does as many products a cycle as float32
        # on Intel, and costs conversions besides (measured: 1.8 times slower); on AMD, which
        # alone has SSE4a, it does twice as many.
        fast = any(units.get(unit, False) for unit in ("amx_bf16", "sve_bf16")) or (
            units.get("avx512_bf16", False) and units.get("sse4a", False)
        )
    return torch.bfloat16 if fast else torch.float32


def in_parts(function: Callable[[slice], Result], count: int) -> list[Result]:
    """Return what `function` gives for 0 to `count`, in as few parts as the GPU's memory takes.

    A part is halved when it does not fit; one item that does not fit is an error. For functions
    whose result for an item hangs on no other item.

    Raises
    ------
    torch.OutOfMemoryError
        If a single item does not fit.
    """
    done: list[Result] = []
    pending = [slice(0, count)]
    while pending:
        part = pending.pop()
        try:
            done.append(function(part))
        except torch.OutOfMemoryError:
            size = part.stop - part.start
            if size < 2:
                raise
            middle = part.start + size // 2
            pending += [slice(middle, part.stop), slice(part.start, middle)]
            torch.cuda.empty_cache()
    return done
