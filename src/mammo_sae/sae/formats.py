"""SAEs of others: the published Mammo-SAE weights, and SAELens's layout both ways."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mammo_sae.errors import InputError
from mammo_sae.sae.model import SparseAutoencoder, file_digest
from mammo_sae.sae.settings import PublishedVariant
from mammo_sae.stores.publish import atomic_file, read_json, write_json

MAMMO_SAE_KEYS = ("tied_bias", "encoder._weight", "encoder._bias", "decoder._weight")
SAELENS_WEIGHTS = "sae_weights.safetensors"
SAELENS_CONFIG = "cfg.json"


def read_published(settings: PublishedVariant) -> SparseAutoencoder:
    """Read the weights that a configuration names: a folder is SAELens's, a file Mammo-SAE's.

    Raises
    ------
    InputError
        If they are missing, not the ones whose SHA-256 was given, or of no readable form.
    """
    path = Path(settings.path)
    weights = path / SAELENS_WEIGHTS if path.is_dir() else path
    if not weights.is_file():
        raise InputError(f"{weights} is missing; download the SAE, or correct variant.path")
    found = file_digest(weights)
    if found != settings.sha256:
        raise InputError(
            f"{weights} has SHA-256 {found}, not {settings.sha256}; download it again, or correct "
            "variant.sha256"
        )
    read = read_saelens if path.is_dir() else read_mammo_sae
    return read(path)


def read_mammo_sae(path: Path) -> SparseAutoencoder:
    """Read the weights that Mammo-SAE publishes, `sparse_autoencoder_final.pt`.

    That SAE is z = ReLU(W (x - b) + b_e), x_hat = D z + b, with a first axis of size 1 in every
    tensor. Only tensors are unpickled.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InputError
        If the file is missing, holds more than tensors, or other ones.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; download the Mammo-SAE weights") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not a plain state dict of tensors ({reason})") from None
    missing = [key for key in MAMMO_SAE_KEYS if key not in state]
    if missing:
        raise InputError(f"{path} has no tensor {missing[0]!r}; it is no Mammo-SAE state dict")
    bias, weight, encoder_bias, decoder = (_one(state, key, path) for key in MAMMO_SAE_KEYS)
    return SparseAutoencoder(
        encoder_weight=weight,
        encoder_bias=encoder_bias - weight @ bias,
        decoder_weight=decoder.t().contiguous(),
        decoder_bias=bias,
        threshold=torch.zeros_like(encoder_bias),
        description={"source": path.name},
    )


def write_saelens(sae: SparseAutoencoder, folder: Path) -> None:
    """Write an SAE as SAELens's `SAE.load_from_disk` reads it: `topk` or `jumprelu`."""
    tensors = {
        "W_enc": sae.encoder_weight.t(),
        "b_enc": sae.encoder_bias,
        "W_dec": sae.decoder_weight,
        "b_dec": sae.decoder_bias,
    }
    config = {
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
    with atomic_file(folder / SAELENS_WEIGHTS) as aside:
        aside.write_bytes(save({name: t.contiguous().cpu() for name, t in tensors.items()}))
    write_json(folder / SAELENS_CONFIG, config)


def read_saelens(folder: Path) -> SparseAutoencoder:
    """Read an SAE of SAELens: `topk`, `standard` or `jumprelu`, for raw embeddings.

    Parameters
    ----------
    folder
        Holds `cfg.json` and `sae_weights.safetensors`.

    Raises
    ------
    InputError
        If a file is missing or damaged, or the SAE needs what can't be folded into weights.
    """
    config = read_json(folder / SAELENS_CONFIG)
    kind = config.get("architecture")
    if kind not in {"topk", "standard", "jumprelu"}:
        raise InputError(
            f"{folder}: architecture {kind!r} can't be read, only topk, standard and jumprelu"
        )
    refused = {
        "normalize_activations": ("none", None),
        "reshape_activations": ("none", None),
        "rescale_acts_by_decoder_norm": (False, None),
    }
    for key, accepted in refused.items():
        if config.get(key) not in accepted:
            raise InputError(f"{folder}: {key} = {json.dumps(config[key])} can't be read; fold it")
    path = folder / SAELENS_WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} can't be read ({error}); export the SAE again") from None
    weight, bias = tensors["W_enc"].t().float().contiguous(), tensors["b_enc"].float()
    offset = tensors["b_dec"].float()
    threshold = {
        "topk": None,
        "standard": torch.zeros_like(bias),
        "jumprelu": tensors.get("threshold", torch.zeros_like(bias)).float(),
    }[kind]
    return SparseAutoencoder(
        encoder_weight=weight,
        encoder_bias=bias - weight @ offset if config["apply_b_dec_to_input"] else bias,
        decoder_weight=tensors["W_dec"].float(),
        decoder_bias=offset,
        k=config["k"] if kind == "topk" else None,
        threshold=threshold,
        description={"source": f"SAELens {kind}"},
    )


def _one(state: dict[str, Tensor], key: str, path: Path) -> Tensor:
    """Return a tensor without its component axis."""
    tensor = state[key].float()
    if len(tensor) != 1:
        raise InputError(f"{path}: {key} holds {len(tensor)} components; only one can be read")
    return tensor[0]
