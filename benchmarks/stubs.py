"""Stubs of packages that other libraries import but do not use."""

from __future__ import annotations

import sys
import types


def without_torchvision() -> None:
    """Make overcomplete importable without torchvision and timm.

    Its __init__ imports them for image models that the benchmarks do not use.
    """
    torchvision = types.ModuleType("torchvision")
    torchvision.transforms = types.ModuleType("torchvision.transforms")
    sys.modules |= {
        "torchvision": torchvision,
        "torchvision.transforms": torchvision.transforms,
        "timm": types.ModuleType("timm"),
    }
