"""Checkpoints of Mammo-CLIP (https://github.com/batmanlab/Mammo-CLIP, MICCAI 2024), as published.

Two kinds of file hold its image encoder under keys ``image_encoder.``:

- pretraining (``b2-model-best-epoch-10.tar``, ``b5-model-best-epoch-7.tar``): ``model`` with the
  text encoder beside it, and ``config``, whose names of the image encoder mean EfficientNets;
- a downstream classifier (``.pth``): ``model`` with the linear head
  ``classifier.classification_head``, and ``predictions``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor

from mammo_sae.encoders import checkpoints
from mammo_sae.encoders.architectures import architecture
from mammo_sae.errors import InputError

# What the configuration inside a checkpoint calls the networks.
NAMES = {
    "tf_efficientnetv2-detect": "efficientnet-b2",
    "tf_efficientnet_b5_ns-detect": "efficientnet-b5",
}
ENCODER = "image_encoder."
HEAD = "classifier.classification_head."

# Beside tensors the files hold predictions and scores as NumPy arrays and numbers, under the
# names of NumPy 1 or 2; rebuilding those runs none of the file's code.
ALLOWED: tuple[Any, ...] = (
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "u1", "?")),
    *(
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for name in ("_reconstruct", "scalar")
        for core in ("core", "_core")
    ),
)


@dataclass(frozen=True)
class Checkpoint:
    """The image encoder as `network.Network` takes it, and the linear head, if there is one.

    `weight` is [c, d] and `bias` [c].
    """

    encoder: dict[str, Tensor]
    weight: Tensor | None
    bias: Tensor | None


def read_checkpoint(path: Path, name: str) -> Checkpoint:
    """Read the image encoder of a checkpoint of Mammo-CLIP.

    Parameters
    ----------
    path
        A pretraining ``.tar`` or a downstream classifier's ``.pth``.
    name
        The architecture it should be of.

    Raises
    ------
    InputError
        If the file is damaged, holds what could run code, is no checkpoint of Mammo-CLIP, or its
        encoder is of another architecture.
    """
    where = f"checkpoint {path}"
    content = checkpoints.read_pickle(path, ALLOWED)
    model = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(model, Mapping) or not any(str(key).startswith(ENCODER) for key in model):
        raise InputError(
            f"{where} is no checkpoint of Mammo-CLIP: it has no 'model' with keys "
            f"'{ENCODER}...'; give a pretraining .tar or a classifier's .pth"
        )
    called = _configured_name(content)
    if called is not None and NAMES.get(called) != name:
        raise InputError(
            f"{where} is of {NAMES.get(called, called)}, not {name}; correct architecture or path"
        )
    state = {
        key.removeprefix(ENCODER): value
        for key, value in model.items()
        if str(key).startswith(ENCODER) and torch.is_tensor(value)
    }
    encoder = checkpoints.fold(state, name, where)
    head = {
        key.removeprefix(HEAD): value for key, value in model.items() if str(key).startswith(HEAD)
    }
    if not head:
        return Checkpoint(encoder, None, None)
    outputs = len(head["bias"]) if "bias" in head else 1
    shape = (outputs, architecture(name).head_channels)
    checkpoints.check_keys(head, {"weight": shape, "bias": (outputs,)}, f"{where}, classifier:")
    return Checkpoint(encoder, head["weight"].float(), head["bias"].float())


def _configured_name(content: Mapping[str, Any]) -> str | None:
    """Return the name of the image encoder in the checkpoint's configuration, if it has one."""
    found: Any = content.get("config")
    for key in ("model", "image_encoder", "name"):
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return str(found).lower()
