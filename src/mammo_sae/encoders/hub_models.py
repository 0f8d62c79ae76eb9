"""The files of a model of the Hugging Face hub, in the cache of the hub's own package."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

from mammo_sae.encoders.plans.vit import CONFIG, PREPROCESSOR, WEIGHTS
from mammo_sae.errors import InputError, first_line


def configuration_folder(repository: str, revision: str) -> Path:
    """Return the folder, in the hub's cache, with the configuration of a model.

    The small files of the model are downloaded unless they are in the cache: its configuration, and
    the configuration of its preprocessor if it has one.

    Parameters
    ----------
    repository
        ``owner/name`` of the model.
    revision
        The 40 hexadecimal digits of a commit. The files of a commit never change, so files in the
        cache are used without asking the hub.

    Raises
    ------
    InputError
        If a file is not in the cache and the hub can't be reached, or the repository does not have
        the configuration. The message says what to download by hand.
    """
    folder = _cached(repository, revision, CONFIG).parent
    with suppress(_Absent):
        _cached(repository, revision, PREPROCESSOR)
    return folder


def model_folder(repository: str, revision: str) -> Path:
    """Return the folder, in the hub's cache, with the configuration and the weights of a model.

    Takes and raises what `configuration_folder` takes and raises.
    """
    configuration_folder(repository, revision)
    return _cached(repository, revision, WEIGHTS).parent


class _Absent(InputError):
    """The repository does not have a file."""


def _cached(repository: str, revision: str, name: str) -> Path:
    """Return the path of a file in the hub's cache. It is downloaded if it is not there."""
    try:
        from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise InputError(
            "the package huggingface_hub, which reads the hub, is not installed; install it with "
            "pip install --constraint envs/constraints.txt transformers"
        ) from None
    absent = _Absent(
        f"{repository} has no {name} at commit {revision}; name another commit or repository, or "
        "convert the model where you trust it, and give its folder with kind: transformers"
    )
    if try_to_load_from_cache(repository, name, revision=revision) is _CACHED_NO_EXIST:
        raise absent
    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise absent from None
        words = ["hf", "download", repository, CONFIG, PREPROCESSOR, WEIGHTS]
        raise InputError(
            f"{name} of {repository} is not in the cache of the hub, and can't be fetched "
            f"({first_line(error)}); run {shlex.join([*words, '--revision', revision])} where "
            "there is a network and copy the cache, or give a folder with kind: transformers"
        ) from None
