"""Stand-ins for packages that peers import and do not use."""

from __future__ import annotations

import sys
import types


def without_torchvision() -> None:
    """Let overcomplete be imported without torchvision and timm.

    Its __init__ imports them for image models that have no part in the benchmarks.
    """
    torchvision = types.ModuleType("torchvision")
    torchvision.transforms = types.ModuleType("torchvision.transforms")
    sys.modules |= {
        "torchvision": torchvision,
        "torchvision.transforms": torchvision.transforms,
        "timm": types.ModuleType("timm"),
    }
