"""Published checkpoints of Mammo-CLIP (https://github.com/batmanlab/Mammo-CLIP, MICCAI 2024).

Two kinds of files contain the image encoder. Its keys begin with ``image_encoder.``, possibly after
the prefix of Lightning (``model.``) or DataParallel (``module.``):

- pretraining (``b2-model-best-epoch-10.tar``, ``b5-model-best-epoch-7.tar``): ``model`` also holds
  the text encoder, and ``config`` names the image encoder, an EfficientNet;
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
from mammo_sae.encoders.plans.efficientnet import plan
from mammo_sae.errors import InputError

# Names of the networks in a checkpoint's configuration.
NAMES = {
    "tf_efficientnetv2-detect": "efficientnet-b2",
    "tf_efficientnet_b5_ns-detect": "efficientnet-b5",
}
ENCODER = "image_encoder."
HEAD = "classifier.classification_head."


@dataclass(frozen=True)
class Checkpoint:
    """The image encoder in the form of `network.Network`, and the linear head, if there is one.

    `weight` is [c, d] and `bias` [c]. `with_vindr` is True if the checkpoint's configuration names
    VinDr-Mammo as pretraining data.
    """

    encoder: dict[str, Tensor]
    weight: Tensor | None
    bias: Tensor | None
    with_vindr: bool


def read_checkpoint(path: Path, name: str) -> Checkpoint:
    """Read the image encoder of a checkpoint of Mammo-CLIP.

    Parameters
    ----------
    path
        A pretraining ``.tar`` or a downstream classifier's ``.pth``.
    name
        The expected architecture.

    Raises
    ------
    InputError
        If the file is damaged, or holds no encoder of that architecture.
    """
    where = f"checkpoint {path}"
    found = checkpoints.find(path, [checkpoints.efficientnet(name)])
    called = str(_configured(found.content, "model", "image_encoder", "name")).lower()
    trained_on = _configured(found.content, "data_train")
    with_vindr = isinstance(trained_on, Mapping) and any("vindr" in str(k) for k in trained_on)
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
        return Checkpoint(encoder, None, None, with_vindr)
    outputs = head["bias"].numel() if "bias" in head else 1
    shape = (outputs, plan(name).head_channels)
    checkpoints.check_keys(head, {"weight": shape, "bias": (outputs,)}, f"{where}, classifier:")
    return Checkpoint(encoder, head["weight"].float(), head["bias"].float(), with_vindr)


def _configured(content: Any, *keys: str) -> Any:
    """Return an entry of the checkpoint's configuration, or None."""
    found = content
    for key in ("config", *keys):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
