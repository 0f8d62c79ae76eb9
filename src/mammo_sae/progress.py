"""Progress of long loops: a bar on a terminal, and a line every ten seconds in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(iterable: Iterable[T], *, label: str, total: int | None = None) -> Iterable[T]:
    """Yield from `iterable`, showing `label`, rate and time left on standard error.

    A log file gets a line every ten seconds, because a bar that is redrawn ten times a second would
    fill it.
    """
    return tqdm(
        iterable,
        desc=label,
        total=total,
        file=sys.stderr,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
    )
