"""Embeddings of the images of one split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mammo_sae.errors import InputError
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.tables import read_table

TRAINING = "training"


def split_reader(
    embeddings: Sequence[Path], layer: str, images: Path, split: str
) -> EmbeddingReader:
    """Return a reader of one layer's embeddings, only for the images of one split.

    The table `images` also lists images that the conversion left out; these are skipped.

    Raises
    ------
    InputError
        If the split has no image with embeddings. The error names the splits that have some.
    """
    table = read_table(images)
    table = table[table["image_id"].isin(EmbeddingReader(embeddings, layer).image_ids)]
    ids = table.loc[table["split"] == split, "image_id"].tolist()
    if not ids:
        have = ", ".join(sorted(table["split"].astype(str).unique()))
        raise InputError(
            f"{images} has no image of split {split!r} with embeddings, only of {have or 'none'}; "
            "give the embeddings of such images"
        )
    return EmbeddingReader(embeddings, layer, ids)
