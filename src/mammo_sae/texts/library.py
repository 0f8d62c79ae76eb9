"""The package `transformers`, for text encoders and tokenizers. No code of a folder is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mammo_sae.errors import InputError, first_line

PHRASES_AT_A_TIME = 32


def transformers() -> Any:
    """Return the package, which prints nothing.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        import transformers as library
    except ImportError:
        raise InputError(
            "the package transformers, which runs text encoders, is not installed; install it with "
            "pip install --constraint envs/constraints.txt transformers"
        ) from None
    said: Any = library.utils.logging
    said.set_verbosity_error()
    said.disable_progress_bar()
    return library


def tokenizer_of(folder: Path, kind: str) -> Any:
    """Return the tokenizer of the class `kind` of the package, from the files of a folder.

    Raises
    ------
    InputError
        If the folder or its files are missing or damaged.
    """
    if not folder.is_dir():
        raise InputError(f"folder {folder} does not exist; give the folder of the tokenizer")
    try:
        made = getattr(transformers(), kind).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise InputError(
            f"folder {folder}: the tokenizer can't be read ({first_line(error)}); put the files of "
            "the tokenizer (vocab.txt or tokenizer.json) into it"
        ) from None
    return made


def tokens_of(
    tokenizer: Any, phrases: Sequence[str], *, padding: bool | str, most: int
) -> Iterator[Any]:
    """Yield the tokens of `phrases` in batches, as tensors.

    Raises
    ------
    InputError
        If a phrase has more than `most` tokens. A part of it would be embedded as the whole.
    """
    for start in range(0, len(phrases), PHRASES_AT_A_TIME):
        some = list(phrases[start : start + PHRASES_AT_A_TIME])
        for phrase, tokens in zip(some, tokenizer(some)["input_ids"], strict=True):
            if len(tokens) > most:
                raise InputError(
                    f"the phrase {phrase!r} has {len(tokens)} tokens, and the text encoder reads "
                    f"{most}; shorten it in the vocabulary"
                )
        yield tokenizer(
            some, padding=padding, truncation=True, max_length=most, return_tensors="pt"
        )
