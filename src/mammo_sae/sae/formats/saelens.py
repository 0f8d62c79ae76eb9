"""Folders of every version of SAELens: `cfg.json` and `sae_weights.safetensors`.

Before version 6 the activation had its own keys (`activation_fn_str` or `activation_fn`, and
`activation_fn_kwargs`). A key that is missing in an old file gets the default value of SAELens:
architecture `standard`, activation `relu`, `apply_b_dec_to_input` true.
BatchTopK and Matryoshka SAEs are stored as `jumprelu`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from mammo_sae.errors import InputError
from mammo_sae.sae.formats.tensors import Tensors, part, read_config, whole_number
from mammo_sae.sae.formats.units import gates, in_embedding_units
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.publish import atomic_file, write_plain_json

WEIGHTS = "sae_weights.safetensors"
CONFIG = "cfg.json"
KINDS = ("standard", "topk", "jumprelu", "gated")
SCALINGS = ("scaling_factor", "finetuning_scaling_factor")


def read(folder: Path) -> SparseAutoencoder:
    """Return the SAE in a folder.

    Raises
    ------
    InputError
        If a file is missing or damaged, or the SAE has an operation that weights can't contain.
    """
    path = folder / CONFIG
    config = read_config(path)
    kind, k = _kind(config, path)
    _refuse_what_depends_on_the_cell(config, path)
    tensors = Tensors(folder / WEIGHTS)
    weight = tensors.take("W_enc", config.get("d_in"), config.get("d_sae")).t()
    latents, channels = weight.shape
    atoms = tensors.take("W_dec", latents, channels) * _scaling(tensors, config, latents, path)
    offset = tensors.take("b_dec", channels)
    threshold: Tensor | None = None
    if kind == "gated":
        gain = tensors.take("r_mag", latents).exp()
        bias = tensors.take("b_mag", latents)
        threshold = gates(gain, tensors.take("b_gate", latents), bias)
        weight = weight * gain.unsqueeze(1)
    else:
        bias = tensors.take("b_enc", latents)
        if kind != "topk":
            threshold = bias.new_zeros(latents)
        if kind == "jumprelu":
            threshold = tensors.take("threshold", latents)
    return in_embedding_units(
        tensors.path,
        f"SAELens {kind}",
        weight=weight,
        bias=bias,
        atoms=atoms,
        offset=offset,
        centre=offset if _truth(config, "apply_b_dec_to_input", True, path) else None,
        k=k,
        threshold=threshold,
        chosen_by_length=_truth(config, "rescale_acts_by_decoder_norm", False, path),
    )


def _kind(config: dict[str, Any], path: Path) -> tuple[str, int | None]:
    """Return the architecture and k, which is None unless the SAE is a TopK SAE."""
    kind = config.get("architecture", "standard")
    activation = config.get("activation_fn", config.get("activation_fn_str"))
    if activation is None:
        activation = "relu"
    k = part(config, "activation_fn_kwargs", path).get("k", config.get("k"))
    if activation == "topk" and kind == "standard":
        kind = "topk"
    if kind not in KINDS:
        raise InputError(
            f"{path}: architecture {json.dumps(kind)[:60]} can't be read, only {', '.join(KINDS)}"
        )
    if activation != "relu" and not (activation == "topk" and kind == "topk"):
        raise InputError(
            f"{path}: activation {json.dumps(activation)[:60]} of architecture {kind} can't be "
            "read, only relu, or topk with the architecture standard or topk"
        )
    if kind != "topk":
        return kind, None
    if k is None:
        raise InputError(f"{path}: a topk SAE without k; write k, as it was trained, into the file")
    return kind, whole_number(k, f"{path}: k")


def _refuse_what_depends_on_the_cell(config: dict[str, Any], path: Path) -> None:
    """Refuse an SAE that rescales cells, reshapes its input, or needs values not in the file."""
    normal = config.get("normalize_activations")
    if normal is True or normal == "expected_average_only_in":
        raise InputError(
            f"{path}: normalize_activations = {json.dumps(normal)} scales by a number that is not "
            "in the file; fold it (fold_activation_norm_scaling_factor of SAELens) and save again"
        )
    if normal == "covariance_whitening":
        raise InputError(
            f"{path}: normalize_activations = {json.dumps(normal)} whitens by matrices that are "
            "not in the file; fold them (SAELens folds them when training ends) and save again"
        )
    if normal not in (None, False, "none"):
        raise InputError(
            f"{path}: normalize_activations = {json.dumps(normal)[:60]} scales every cell by its "
            "own length, which weights can't contain; such an SAE can't be read"
        )
    hook = config.get("hook_name", config.get("hook_point"))
    reshape = config.get("reshape_activations")
    if reshape is None:
        reshape = "hook_z" if "hook_z" in str(hook or "") else "none"
    if reshape != "none":
        raise InputError(
            f"{path}: reshape_activations = {json.dumps(reshape)[:60]} is for the heads of an "
            "attention layer; such an SAE can't be read"
        )


def _truth(config: dict[str, Any], key: str, default: bool, path: Path) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InputError(
            f"{path}: {key} is {json.dumps(value)[:60]}, not true or false; correct it"
        )
    return value


def _scaling(tensors: Tensors, config: dict[str, Any], latents: int, path: Path) -> Tensor | float:
    """Return the factor [h, 1] by which codes are multiplied before they are decoded."""
    for name in SCALINGS:
        if name in tensors:
            factor = tensors.take(name, latents)
            said = config.get("finetuning_scaling_factor") is not None
            on = _truth(config, "finetuning_scaling_factor", False, path)
            if not said and (factor - 1).abs().max() > 1e-5:
                raise InputError(
                    f"{tensors.path} has a {name} other than 1, and {path} does not say whether it "
                    "is used; set finetuning_scaling_factor there to true or false"
                )
            return factor.unsqueeze(1) if on else 1.0
    if _truth(config, "finetuning_scaling_factor", False, path):
        raise InputError(
            f"{path}: finetuning_scaling_factor is on, but {tensors.path} has no such tensor; "
            "fetch the folder again"
        )
    return 1.0


def write(sae: SparseAutoencoder, folder: Path) -> None:
    """Write an SAE as `topk` or `jumprelu`, in the form that `SAE.load_from_disk` reads."""
    weight, bias, atoms = sae.encoder_weight, sae.encoder_bias, sae.decoder_weight
    if sae.selection is not None:
        # SAELens has no `selection`: it ranks latents by their codes. So multiply the codes by
        # `selection` and divide the atoms by it, which does not change the reconstruction.
        scale = sae.selection.unsqueeze(1)
        weight, bias, atoms = weight * scale, bias * sae.selection, atoms / scale
    tensors = {"W_enc": weight.t(), "b_enc": bias, "W_dec": atoms, "b_dec": sae.decoder_bias}
    config: dict[str, Any] = {
        "d_in": sae.channels,
        "d_sae": sae.latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {},
    }
    if sae.threshold is None:
        config |= {"architecture": "topk", "k": sae.k, "rescale_acts_by_decoder_norm": False}
    else:
        config["architecture"] = "jumprelu"
        tensors["threshold"] = sae.threshold
    with atomic_file(folder / WEIGHTS) as aside:
        aside.write_bytes(save({name: t.contiguous().cpu() for name, t in tensors.items()}))
    write_plain_json(folder / CONFIG, config)
