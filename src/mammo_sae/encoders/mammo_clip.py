"""Checkpoints of Mammo-CLIP (https://github.com/batmanlab/Mammo-CLIP, MICCAI 2024), as published.

Two kinds of file hold its image encoder, under keys ``image_encoder.``, perhaps behind those of
Lightning (``model.``) or DataParallel (``module.``):

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

import torch
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
        If the file is damaged, or holds no encoder of that architecture.
    """
    where = f"checkpoint {path}"
    found = checkpoints.find(path, name)
    called = _configured_name(found.content)
    if NAMES.get(called, name) != name:
        raise InputError(f"{where} is of {NAMES[called]}, not {name}; correct architecture or path")
    encoder = checkpoints.fold(found.state, name, where)
    before = found.prefix.removesuffix(ENCODER) + HEAD
    head = {
        key.removeprefix(before): value
        for key, value in found.around.items()
        if isinstance(key, str) and key.startswith(before) and torch.is_tensor(value)
    }
    if not head:
        return Checkpoint(encoder, None, None)
    outputs = head["bias"].numel() if "bias" in head else 1
    shape = (outputs, architecture(name).head_channels)
    checkpoints.check_keys(head, {"weight": shape, "bias": (outputs,)}, f"{where}, classifier:")
    return Checkpoint(encoder, head["weight"].float(), head["bias"].float())


def _configured_name(content: Any) -> str:
    """Return the name of the image encoder in the checkpoint's configuration, or nothing."""
    found = content
    for key in ("config", "model", "image_encoder", "name"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found.lower() if isinstance(found, str) else ""
