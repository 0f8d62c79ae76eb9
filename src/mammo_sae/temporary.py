"""Writing into a temporary file, with one sentence if its disk is full."""

from __future__ import annotations

from typing import IO

import numpy as np

from mammo_sae.errors import InputError


def write_whole(
    file: IO[bytes], values: np.ndarray, *, folder: object, size: str, remedy: str
) -> None:
    """Write all bytes of a contiguous array at the place where `file` is.

    A file without a buffer may take a part of the bytes, for example the part that a disk still has
    room for. The rest is then written by further calls, and the last of them fails.

    Parameters
    ----------
    folder, size, remedy
        For the message: where the file lies, how large it becomes, and what to do.

    Raises
    ------
    InputError
        If the disk has no room.
    """
    if not values.size:
        return
    view, done = values.data.cast("B"), 0
    try:
        while done < len(view):
            done += file.write(view[done:])
    except OSError as error:
        raise InputError(
            f"{folder} has no room for a temporary file of {size} ({error.strerror}); {remedy}"
        ) from None
