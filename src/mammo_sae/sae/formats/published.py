"""The reader of the variant `published`: finds the library that wrote the files of an SAE."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from mammo_sae.errors import InputError
from mammo_sae.sae.formats import dictionary_learning, mammo_sae, overcomplete, own, saelens
from mammo_sae.sae.formats.tensors import Tensors
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.checksums import file_digest

if TYPE_CHECKING:
    from mammo_sae.sae.settings import PublishedVariant

# The readers of folders, by the name of the file of weights in the folder.
FOLDERS = {library.WEIGHTS: library for library in (saelens, dictionary_learning, own)}


def read_published(settings: PublishedVariant) -> SparseAutoencoder:
    """Read a published SAE.

    Raises
    ------
    InputError
        If a file is missing, has another SHA-256 than configured, or can't be read.
    """
    path = Path(settings.path)
    files = [path]
    if path.is_dir():
        there = [name for name in FOLDERS if (path / name).is_file()]
        if len(there) != 1:
            raise InputError(
                f"{path} is a folder with {' and '.join(there) or 'no weights'}; it should "
                f"hold one of {', '.join(FOLDERS)}"
            )
        # The configuration decides the codes too, so the SHA-256 covers both files.
        library = FOLDERS[there[0]]
        files = [path / library.CONFIG, path / library.WEIGHTS]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} is missing; download the SAE, or correct variant.path")
    found = file_digest(*files)
    if found != settings.sha256:
        raise InputError(
            f"`cat {shlex.join(map(str, files))} | sha256sum` gives {found}, not "
            f"{settings.sha256}; download the SAE again, or correct variant.sha256"
        )
    if path.is_dir():
        sae = library.read(path)
    else:
        tensors = Tensors(path)
        if any(name.startswith(overcomplete.MARK) for name in tensors.names()):
            return overcomplete.read(tensors, settings.k)
        sae = _of_file(tensors)
    if settings.k is not None:
        raise InputError(f"{path} states itself which latents are active; remove variant.k")
    return sae


def _of_file(tensors: Tensors) -> SparseAutoencoder:
    if mammo_sae.MARK in tensors:
        return mammo_sae.read(tensors)
    names = tensors.names()
    if "W_enc" in names or "encoder.weight" in names:
        raise InputError(
            f"{tensors.path} can't be read without its configuration; give the folder that holds "
            f"both, as SAELens ({saelens.WEIGHTS}, {saelens.CONFIG}) or dictionary_learning "
            f"({dictionary_learning.WEIGHTS}, {dictionary_learning.CONFIG}) writes it"
        )
    raise InputError(
        f"{tensors.path} has neither {mammo_sae.MARK} (Mammo-SAE) nor {overcomplete.MARK}* "
        f"(overcomplete), only {', '.join(names[:12]) or 'nothing'}; it is no SAE that can be read"
    )
