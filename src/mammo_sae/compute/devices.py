"""The device of networks and SAEs, and the number type of its fastest products."""

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

    The choice depends on the processor only. A timing would depend on the machine's load, and the
    same run could then give different bytes.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        units = torch.cpu.get_capabilities()
        # Matrix units are always faster. AVX-512's bfloat16 instruction has the rate of float32 on
        # Intel, and conversions make it slower (measured: 1.8 times). On AMD it has twice the rate
        # of float32. SSE4a shows that a processor is from AMD.
        fast = any(units.get(unit, False) for unit in ("amx_bf16", "sve_bf16")) or (
            units.get("avx512_bf16", False) and units.get("sse4a", False)
        )
    return torch.bfloat16 if fast else torch.float32


def in_parts(function: Callable[[slice], Result], count: int) -> list[Result]:
    """Call `function` with all `count` items, or with parts of them that fit into the GPU's memory.

    `function` gets the slice of the items. It is first called with all items. A part that does not
    fit into the memory is halved. The results of the parts are returned in order. The result for an
    item must not depend on other items.

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
