"""Settings of the source of phrases and of their embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mammo_sae.encoders.plans.plan import Pooling
from mammo_sae.encoders.plans.vit import read_folder
from mammo_sae.errors import InputError
from mammo_sae.settings import PathText, Settings

# Kind of model with a text encoder -> the pooling of its image embeddings.
POOLINGS: dict[str, Pooling] = {"clip": "cls", "siglip": "attention"}
# Files of a folder of `transformers` that a text encoder and its tokenizer may need.
MODEL_FILES = ("config.json", "model.safetensors")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
)


class TextSource(Settings):
    """Phrases, and the encoder whose images lie in the same space as their embeddings."""

    encoder: str = Field(
        description="name of the pretrained encoder whose image embeddings lie in the same space; "
        "the latents of all encoders are named by its images"
    )
    vocabulary: PathText | None = Field(
        None,
        description="file of phrases (.csv with the columns phrase, group and label; "
        "docs/naming.md); null: config/vocabulary.csv of the project",
    )

    @property
    def files(self) -> list[str]:
        """Return the files of the source that exist and are read, without the vocabulary."""
        raise NotImplementedError


class MammoClipText(TextSource):
    """The text encoder and projections in a pretraining checkpoint of Mammo-CLIP or Mammo-FM."""

    kind: Literal["mammo_clip"]
    path: PathText = Field(description="pretraining checkpoint (.tar), the one of the encoder")
    tokenizer: PathText = Field(
        description="folder with the tokenizer: vocab.txt of Bio_ClinicalBERT for Mammo-CLIP's "
        "published checkpoints, tokenizer.json of ModernBERT-base for Mammo-FM's"
    )

    @property
    def files(self) -> list[str]:
        """Return the files that are read."""
        return [self.path, *_present(self.tokenizer, TOKENIZER_FILES)]


class TransformersText(TextSource):
    """The text encoder of a folder of `transformers` with a CLIP or SigLIP model."""

    kind: Literal["transformers"]
    path: PathText = Field(
        description="folder with config.json, model.safetensors and the files of the tokenizer"
    )

    @property
    def files(self) -> list[str]:
        """Return the files that are read."""
        return _present(self.path, (*MODEL_FILES, *TOKENIZER_FILES))

    @property
    def model(self) -> str:
        """Return the kind of the model, a key of `POOLINGS`.

        Raises
        ------
        InputError
            If the folder holds no model with a text encoder that can be read.
        """
        kind = read_folder(Path(self.path)).kind
        if kind not in POOLINGS:
            raise InputError(
                f"folder {self.path} has a model of kind {kind}, which has no text encoder that "
                f"can be read; give a model of {' or '.join(POOLINGS)}"
            )
        return kind

    @property
    def pooling(self) -> Pooling:
        """Return the pooling that leads to the model's image embeddings.

        Raises
        ------
        InputError
            If the folder holds no model with a text encoder that can be read.
        """
        return POOLINGS[self.model]


class TableText(TextSource):
    """A table of phrases with ready embeddings."""

    kind: Literal["table"]
    path: PathText = Field(
        description="table with a row per phrase: .parquet with the columns phrase and vector, or "
        ".csv with the column phrase and a column per number"
    )
    projection: PathText | None = Field(
        None,
        description="file of weights (safetensors or torch.save) with `weight` [d, c] and perhaps "
        "`bias` [d], from the encoder's c features to the d numbers of a vector; null: the "
        "features are in the same space already",
    )

    @property
    def files(self) -> list[str]:
        """Return the files that are read."""
        return [self.path, *([] if self.projection is None else [self.projection])]


TextSettings = Annotated[MammoClipText | TransformersText | TableText, Field(discriminator="kind")]


def _present(folder: str, names: tuple[str, ...]) -> list[str]:
    return [path.as_posix() for name in names if (path := Path(folder) / name).is_file()]
