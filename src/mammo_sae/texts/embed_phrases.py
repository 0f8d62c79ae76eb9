"""Step: embed the phrases of the vocabulary by the text encoder that belongs to an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mammo_sae.errors import InputError
from mammo_sae.texts import clip, mammo_clip, table
from mammo_sae.texts.joint import Joint, Projection, save_joint, unit_rows
from mammo_sae.texts.vocabulary import read_vocabulary

if TYPE_CHECKING:
    from mammo_sae.texts.settings import TextSettings

Embed = Callable[[Any, Sequence[str]], tuple[np.ndarray, Projection | None]]
EMBED: dict[str, Embed] = {
    "mammo_clip": mammo_clip.embed,
    "transformers": clip.embed,
    "table": table.embed,
}


def run(
    settings: TextSettings | None, *, vocabulary: Path, phrases: Path, vectors: Path
) -> list[Path]:
    """Embed the phrases of a vocabulary in the joint space of images and text.

    Parameters
    ----------
    settings
        Source of the embeddings.
    vocabulary
        File of phrases (.csv): phrase, group, label.
    phrases
        Table to write (.parquet): the phrases, in the order of the file.
    vectors
        File to write (.safetensors): their vectors, of length 1, and the projection of the images.

    Raises
    ------
    InputError
        If there is no source, if a file is missing or damaged, or if a vector is not finite or 0.
    """
    if settings is None:
        raise InputError("the configuration has no source of phrases; set text")
    found = read_vocabulary(vocabulary)
    values, projection = EMBED[settings.kind](settings, found["phrase"].tolist())
    length = np.linalg.norm(values, axis=1)
    wrong = ~(np.isfinite(length) & (length > 0))
    if wrong.any():
        phrase = found["phrase"].iloc[int(wrong.argmax())]
        raise InputError(f"the vector of {phrase!r} is not finite or 0; correct the text's source")
    save_joint(Joint(found, unit_rows(values), projection), phrases, vectors)
    return [phrases, vectors]
