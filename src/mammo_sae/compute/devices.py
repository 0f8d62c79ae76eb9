"""Where networks and SAEs run, and in which type their products are fastest there."""

from __future__ import annotations

import torch


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
