"""The text encoder of a folder of `transformers` with a CLIP or SigLIP model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mammo_sae.errors import InputError, first_line
from mammo_sae.texts.joint import Projection
from mammo_sae.texts.library import tokenizer_of, tokens_of, transformers

if TYPE_CHECKING:
    from mammo_sae.texts.settings import TransformersText

# Kind of model -> its class, how its texts are filled up in training, and what it gets of them.
# SigLIP attends to the tokens that fill up a text too.
KINDS: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "clip": ("CLIPModel", True, ("input_ids", "attention_mask")),
    "siglip": ("SiglipModel", "max_length", ("input_ids",)),
}
# Numbers of tokens and patches, which older versions of the package saved. They are no weights.
NUMBERS = "position_ids"


def embed(source: TransformersText, phrases: Sequence[str]) -> tuple[np.ndarray, Projection | None]:
    """Return the vectors [V, d] of `phrases`, and the projection of the images.

    CLIP projects the norm of the class token (pooling `cls`); SigLIP's attention pooling ends in
    the joint space.

    Raises
    ------
    InputError
        If the folder has no such model or no tokenizer, or if a file is damaged.
    """
    folder = Path(source.path)
    name, padding, inputs = KINDS[source.model]
    model = _model(folder, name)
    tokenizer = tokenizer_of(folder, "AutoTokenizer")
    most = model.config.text_config.max_position_embeddings
    vectors = []
    with torch.inference_mode():
        for tokens in tokens_of(tokenizer, phrases, padding=padding, most=most):
            given = {key: tokens[key] for key in inputs}
            vectors.append(model.get_text_features(**given).pooler_output)
    return torch.cat(vectors).float().numpy(), _projection(model)


def _projection(model: Any) -> Projection | None:
    if not hasattr(model, "visual_projection"):
        return None
    weight = model.visual_projection.weight.detach().float().numpy()
    return Projection(weight, np.zeros(len(weight), np.float32))


def _model(folder: Path, name: str) -> Any:
    try:
        model, report = getattr(transformers(), name).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
            # Other shapes are refused below, with their names.
            ignore_mismatched_sizes=True,
        )
    except Exception as error:
        raise InputError(
            f"folder {folder}: the weights can't be read ({first_line(error)}); fetch the folder "
            "again"
        ) from None
    shapes = sorted(str(one[0]) for one in report["mismatched_keys"])
    if shapes:
        raise InputError(
            f"folder {folder} has other shapes of {', '.join(shapes[:3])} than its configuration; "
            "fetch the folder again"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"folder {folder} lacks {', '.join(missing[:3])} of {name}; give the folder of the "
            "whole model, with its text encoder"
        )
    # Without a block or a bias of the file, the embeddings would be others than the published ones.
    unused = sorted(key for key in report["unexpected_keys"] if not key.endswith(NUMBERS))
    if unused:
        raise InputError(
            f"folder {folder} has {', '.join(unused[:3])}, which {name} of its configuration does "
            "not use; fetch the folder again"
        )
    return model.eval()
