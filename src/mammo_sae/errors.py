"""Errors with messages for the user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class InputError(Exception):
    """An input of a step is wrong.

    The message is one sentence: what is wrong, where (file, key, row), and what to do. The command
    line prints only this message, without a traceback, and exits with 1.
    """


class StoreError(InputError):
    """A store is missing, is damaged, or differs from its manifest."""


class DroppedError(StoreError):
    """Stores were dropped to save room, and must be made again before they are read.

    Attributes
    ----------
    manifests
        The manifests of these stores.
    """

    def __init__(self, message: str, manifests: Sequence[Path]) -> None:
        super().__init__(message)
        self.manifests = list(manifests)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's type if it has no message."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun: "1 image", "2 images"; `several` defaults to `one` + "s"."""
    return f"{number} {one if number == 1 else several or one + 's'}"
