"""Progress of long loops: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(iterable: Iterable[T], *, label: str, total: int | None = None) -> Iterator[T]:
    """Yield from `iterable`, showing `label`, rate and time left on standard error.

    In a log file a line every ten seconds is enough; a bar redrawn ten times a second is noise.
    """
    return tqdm(
        iterable,
        desc=label,
        total=total,
        file=sys.stderr,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
    )
