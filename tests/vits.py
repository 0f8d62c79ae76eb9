"""Small vision transformers with random weights, written by `transformers` in its own form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as library

from mammo_sae.encoders import import_encoder
from mammo_sae.encoders.settings import PretrainedSettings, TransformersSource

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 56,
    "patch_size": 14,
}
RATIO = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 60,
    "eos_token_id": 1,
    "bos_token_id": 0,
    "pad_token_id": 1,
}


def model_of(kind: str, **changes: Any) -> Any:
    """A network of a kind, with the part for text if it has one."""
    torch.manual_seed(0)
    model = {
        "dinov2": lambda: library.Dinov2Model(library.Dinov2Config(**{**RATIO, **changes})),
        "dinov2_with_registers": lambda: library.Dinov2WithRegistersModel(
            library.Dinov2WithRegistersConfig(**{**RATIO, **changes})
        ),
        "dinov3_vit": lambda: library.DINOv3ViTModel(
            library.DINOv3ViTConfig(**{**SMALL, "num_register_tokens": 4, **changes})
        ),
        "siglip": lambda: library.SiglipModel(
            library.SiglipConfig(vision_config={**SMALL, **changes}, text_config=TEXT)
        ),
        "clip": lambda: library.CLIPModel(
            library.CLIPConfig(vision_config={**SMALL, **changes}, text_config=TEXT)
        ),
        "vit": lambda: library.ViTModel(library.ViTConfig(**{**SMALL, **changes})),
    }[kind]()
    for parameter in model.parameters():
        # Weights of the size of trained ones: positions, registers and scales are not constant.
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def write(kind: str, folder: Path, **changes: Any) -> Any:
    """Write a network into a folder; return it."""
    model = model_of(kind, **changes)
    model.save_pretrained(folder)
    return model


def imported(folder: Path, directory: Path, **settings: Any) -> Path:
    """Import the network of a folder; return the encoder's directory."""
    import_encoder.run(
        PretrainedSettings(
            source=TransformersSource(kind="transformers", path=folder.as_posix(), **settings)
        ),
        weights=directory / "encoder.safetensors",
        description=directory / "encoder.json",
    )
    return directory
