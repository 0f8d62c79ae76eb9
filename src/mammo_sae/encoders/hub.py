"""Downloads a checkpoint from the Hugging Face hub."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from mammo_sae.errors import InputError
from mammo_sae.stores.publish import atomic_file

TIMEOUT = 30.0  # seconds without an answer after which the download fails


def fetch(file: str, path: Path) -> None:
    """Download `file` of the hub to `path`, unless a file is there already.

    Parameters
    ----------
    file
        ``owner/repository/path/in/the/repository``, of the main revision.
    path
        File to write.

    Raises
    ------
    InputError
        If the hub can't be reached or has no such file. The message says what to download by hand.
    """
    if path.exists():
        return
    owner, repository, inside = (*file.split("/", 2), "", "")[:3]
    if not inside:
        raise InputError(
            f"hub id {file!r} names no file; write owner/repository/path/in/the/repository"
        )
    # The hub's own client reads this variable too, for mirrors.
    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    address = f"{host}/{owner}/{repository}/resolve/main/{inside}"
    try:
        with (
            urllib.request.urlopen(address, timeout=TIMEOUT) as answer,
            atomic_file(path) as aside,
            aside.open("wb") as stream,
        ):
            shutil.copyfileobj(answer, stream)
            expected = answer.headers.get("Content-Length")
            if expected is not None and stream.tell() != int(expected):
                raise OSError(f"the connection broke after {stream.tell()} bytes")
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"{address} can't be fetched ({reason}); fetch it where there is a network and put it "
            f"at {path}"
        ) from None
