"""The text encoder in a pretraining checkpoint of Mammo-CLIP or Mammo-FM.

The checkpoint's `model` holds a BERT (Bio_ClinicalBERT, ``text_encoder.text_encoder.``) and two
linear projections (``text_projection.projection.``, ``image_projection.projection.``), see
https://github.com/batmanlab/Mammo-CLIP, `breastclip/model/clip.py`. A phrase is cut at 256 tokens.
It is pooled at its last token, the separator; BERT's own pooler is not used. An image is the mean
of the last map. Mammo-FM has another text encoder (`mammo_sae.texts.modern_bert`), and all else as
Mammo-CLIP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mammo_sae.encoders import checkpoints
from mammo_sae.errors import InputError
from mammo_sae.texts import modern_bert
from mammo_sae.texts.joint import Projection
from mammo_sae.texts.library import tokenizer_of, tokens_of, transformers

if TYPE_CHECKING:
    from mammo_sae.texts.settings import MammoClipText

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"
INNER = "encoder.layer.0.intermediate.dense.weight"
TEXT, IMAGE = "text_projection.projection.", "image_projection.projection."
# Beginnings of the names of a text encoder, and the name of its embeddings of words: of Mammo-CLIP,
# of a BERT that is not wrapped, and of Mammo-FM.
ONCE = "text_encoder."
NAMES = ((ONCE * 2, WORDS), (ONCE, WORDS), (ONCE, modern_bert.WORDS))
# Parts of BERT that are not used. Older versions of `transformers` saved the position ids.
UNUSED = ("pooler.", "embeddings.position_ids")
HEAD_WIDTH = 64  # channels of an attention head in BERT
MOST_TOKENS = 256


def embed(source: MammoClipText, phrases: Sequence[str]) -> tuple[np.ndarray, Projection]:
    """Return the vectors [V, d] of `phrases`, and the projection of the images.

    Raises
    ------
    InputError
        If a file is missing or damaged, or if the checkpoint has another text encoder.
    """
    path = Path(source.path)
    found = checkpoints.find(path, [_form(prefix, words) for prefix, words in NAMES])
    where = f"checkpoint {path}"
    _check_pooling(found.content, where)
    text = _linear(found.state, TEXT, where)
    image = _linear(found.state, IMAGE, where)
    if text[0].shape[0] != image[0].shape[0]:
        raise InputError(f"{where}: the projections end in different spaces; fetch it again")
    bert, tokenizer, inputs = _text_model(found, Path(source.tokenizer), where)
    if len(tokenizer) > bert.config.vocab_size:
        raise InputError(
            f"the tokenizer of {source.tokenizer} has {len(tokenizer)} tokens and {where} "
            f"{bert.config.vocab_size}; give the tokenizer of the checkpoint's text encoder"
        )
    vectors = []
    with torch.inference_mode():
        for tokens in tokens_of(tokenizer, phrases, padding=True, most=MOST_TOKENS):
            states = bert(**{name: tokens[name] for name in inputs}).last_hidden_state
            last = tokens["attention_mask"].sum(dim=1) - 1
            pooled = states[torch.arange(len(states)), last]
            vectors.append(torch.nn.functional.linear(pooled, *text))
    return torch.cat(vectors).numpy(), Projection(image[0].numpy(), image[1].numpy())


def _form(prefix: str, words: str) -> checkpoints.Form:
    """Return the names of a text encoder and of the projections in a checkpoint."""
    anchor = prefix + words
    expected = [anchor, f"{TEXT}weight"]
    if prefix == ONCE * 2:
        # Its names fit the form with one prefix too, which must not find as many of them.
        expected.append(prefix + POSITIONS)
    return checkpoints.Form(
        "Mammo-CLIP's pretraining", anchor, (prefix, TEXT, IMAGE), dict.fromkeys(expected, ())
    )


def _text_model(
    found: checkpoints.Found, tokenizer: Path, where: str
) -> tuple[Any, Any, tuple[str, ...]]:
    """Return the text encoder, its tokenizer, and what the encoder gets of the tokens."""
    prefix, words = next(one for one in NAMES if "".join(one) == found.form.anchor)
    state = {k.removeprefix(prefix): v for k, v in found.state.items() if k.startswith(prefix)}
    if words == modern_bert.WORDS:
        made = modern_bert.modern_bert(state, f"{where}, text encoder:")
        return made, tokenizer_of(tokenizer, "AutoTokenizer"), ("input_ids", "attention_mask")
    inputs = ("input_ids", "token_type_ids", "attention_mask")
    return _bert(state, where), tokenizer_of(tokenizer, "BertTokenizer"), inputs


def _linear(state: Mapping[str, Tensor], prefix: str, where: str) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a projection."""
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if set(own) != {"weight", "bias"} or own["weight"].ndim != 2:
        raise InputError(
            f"{where} has no linear projection {prefix.rstrip('.')}; give a pretraining checkpoint "
            "as Mammo-CLIP publishes it"
        )
    checkpoints.check_finite(own, where)
    return own["weight"].float(), own["bias"].float()


def _check_pooling(content: Any, where: str) -> None:
    """Refuse a text encoder that is pooled in another way than the published ones."""
    found = content
    for key in ("config", "model", "text_encoder", "pooling"):
        found = found.get(key) if isinstance(found, Mapping) else None
    if found not in (None, "eos"):
        raise InputError(
            f"{where} pools its text by {found!r}, and only 'eos', as published, is read; give "
            " the embeddings as a table (text.kind: table)"
        )


def _bert(state: Mapping[str, Tensor], where: str) -> Any:
    """Return the BERT with the weights `state`, in float32."""
    library = transformers()
    layers = {key.split(".")[2] for key in state if key.startswith("encoder.layer.")}
    if not layers or any(key not in state for key in (POSITIONS, TYPES, INNER)):
        raise InputError(f"{where}: its text encoder is no BERT; give the embeddings as a table")
    words, width = state[WORDS].shape
    config = library.BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        intermediate_size=state[INNER].shape[0],
        max_position_embeddings=state[POSITIONS].shape[0],
        type_vocab_size=state[TYPES].shape[0],
    )
    # The kernel is chosen here, so that it does not depend on the installation.
    config._attn_implementation = "sdpa"
    model = library.BertModel(config, add_pooling_layer=False)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    shapes = {key: shape for key, shape in shapes.items() if not key.startswith(UNUSED)}
    own = {key: value for key, value in state.items() if not key.startswith(UNUSED)}
    checkpoints.check_keys(own, shapes, f"{where}, text encoder:")
    checkpoints.check_finite(own, where)
    model.load_state_dict({key: value.float() for key, value in own.items()}, strict=False)
    return model.eval()
