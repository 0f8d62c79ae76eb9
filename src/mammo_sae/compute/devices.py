"""Where networks and SAEs run, and in which type their products are fastest there."""

from __future__ import annotations

import torch


def fastest_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def product_type(device: torch.device) -> torch.dtype:
    """Return bfloat16 where `device` multiplies it natively, else float32 (emulation is slower)."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        units = torch.cpu.get_capabilities()
        native = any(units.get(unit, False) for unit in ("amx_bf16", "avx512_bf16", "sve_bf16"))
    return torch.bfloat16 if native else torch.float32
