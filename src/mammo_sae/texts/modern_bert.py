"""The text encoder of Mammo-FM, a ModernBERT in a checkpoint in the form of Mammo-CLIP.

The names of its weights begin with ``text_encoder.``, once. The sizes that they do not show are
those of ModernBERT-base (Warner et al. 2024, arXiv 2412.13663): every third layer attends to the
whole text, and a head has 64 channels. The published code pools the output of the last layer,
before the final norm, see https://github.com/batmanlab/Mammo-FM, `breastclip/model/clip.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mammo_sae.encoders import checkpoints
from mammo_sae.errors import InputError
from mammo_sae.texts.library import transformers

WORDS = "embeddings.tok_embeddings.weight"
INNER = "layers.0.mlp.Wi.weight"  # the values and their gates, one after the other
HEAD_WIDTH = 64


def modern_bert(state: Mapping[str, Tensor], where: str) -> Any:
    """Return the ModernBERT with the weights `state`, in float32, without its final norm.

    Raises
    ------
    InputError
        If weights are missing or of another shape. The message begins with `where`.
    """
    layers = {key.split(".")[1] for key in state if key.startswith("layers.")}
    if INNER not in state:
        raise InputError(f"{where} lacks {INNER}; fetch the checkpoint again")
    words, width = state[WORDS].shape
    library = transformers()
    config = library.ModernBertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        intermediate_size=len(state[INNER]) // 2,
        # Only training uses the token that fills up a text.
        pad_token_id=None,
    )
    # The kernel is chosen here, so that it does not depend on the installation.
    config._attn_implementation = "sdpa"
    model = library.ModernBertModel(config)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    checkpoints.check_keys(state, shapes, where)
    checkpoints.check_finite(state, where)
    model.load_state_dict({key: value.float() for key, value in state.items()})
    model.final_norm = nn.Identity()
    return model.eval()
