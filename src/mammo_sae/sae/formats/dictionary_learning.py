"""dictionary_learning's folders: `ae.pt`, and `config.json` with the class in `trainer.dict_class`.

The formulas of the classes are those of the library's `dictionary.py` and `trainers/`. BatchTopK
and Matryoshka SAEs use the threshold found in training. A threshold of -1 means that training has
not found one yet. The SAE is then read with threshold 0, as a ReLU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mammo_sae.errors import InputError
from mammo_sae.sae.formats.tensors import Tensors, part, read_config, whole_number
from mammo_sae.sae.formats.units import gates, in_embedding_units
from mammo_sae.sae.model import SparseAutoencoder

WEIGHTS = "ae.pt"
CONFIG = "config.json"
# Classes with weights in torch.nn.Linear, and those with W_enc [d, h] and W_dec [h, d].
LINEAR = ("AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "GatedAutoEncoder")
PLAIN = ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE")


def read(folder: Path) -> SparseAutoencoder:
    """Return the SAE in a folder.

    Raises
    ------
    InputError
        If a file is missing or damaged, or the SAE's class can't be read.
    """
    path = folder / CONFIG
    trainer = part(read_config(path), "trainer", path)
    kind = trainer.get("dict_class")
    if kind not in (*LINEAR, *PLAIN):
        raise InputError(
            f"{path}: trainer.dict_class {str(kind)[:60]!r} can't be read, only "
            f"{', '.join((*LINEAR, *PLAIN))}"
        )
    tensors = Tensors(folder / WEIGHTS)
    if kind in LINEAR:
        weight = tensors.take("encoder.weight", None, None)
        latents, channels = weight.shape
        atoms = tensors.take("decoder.weight", channels, latents).t()
    else:
        weight = tensors.take("W_enc", None, None).t()
        latents, channels = weight.shape
        atoms = tensors.take("W_dec", latents, channels)
    bias_name, offset_name = {
        "AutoEncoder": ("encoder.bias", "bias"),
        "AutoEncoderNew": ("encoder.bias", "decoder.bias"),
        "GatedAutoEncoder": ("mag_bias", "decoder_bias"),
        "JumpReluAutoEncoder": ("b_enc", "b_dec"),
        "MatryoshkaBatchTopKSAE": ("b_enc", "b_dec"),
    }.get(kind, ("encoder.bias", "b_dec"))
    bias, offset = tensors.take(bias_name, latents), tensors.take(offset_name, channels)
    threshold: Tensor | None = bias.new_zeros(latents)
    k = None
    if kind == "AutoEncoderTopK":
        threshold, k = None, _k(tensors, trainer, path)
    elif kind == "GatedAutoEncoder":
        gain = tensors.take("r_mag", latents).exp()
        threshold = gates(gain, tensors.take("gate_bias", latents), bias)
        weight = weight * gain.unsqueeze(1)
    elif kind == "JumpReluAutoEncoder":
        threshold = tensors.take("threshold", latents)
    elif kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        if "threshold" not in tensors:
            raise InputError(
                f"{tensors.path} has no threshold: it was written before the library kept one; "
                "train the SAE further with a newer dictionary_learning and save it again"
            )
        threshold = tensors.take("threshold").expand(latents)
    return in_embedding_units(
        tensors.path,
        f"dictionary_learning {kind}",
        weight=weight,
        bias=bias,
        atoms=atoms,
        offset=offset,
        centre=None if kind in ("AutoEncoderNew", "JumpReluAutoEncoder") else offset,
        k=k,
        threshold=threshold,
    )


def _k(tensors: Tensors, trainer: dict[str, Any], path: Path) -> int:
    """Return k from the weights or the configuration. If both have a k, they must agree."""
    found = [
        *([tensors.take("k").item()] if "k" in tensors else []),
        *([trainer["k"]] if trainer.get("k") is not None else []),
    ]
    if not found:
        raise InputError(f"{path}: a TopK SAE without trainer.k; write it into the file")
    numbers = {whole_number(value, f"{path}: trainer.k") for value in found}
    if len(numbers) > 1:
        raise InputError(
            f"{path}: trainer.k is {trainer['k']}, but {tensors.path} says {found[0]:g}; "
            "fetch the folder again"
        )
    return numbers.pop()
