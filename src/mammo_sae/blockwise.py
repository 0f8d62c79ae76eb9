"""Apply a function to blocks of data, in the threads of the job, a few blocks at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from dask.base import compute
from dask.delayed import delayed

B = TypeVar("B")
R = TypeVar("R")


def threads() -> int:
    """Return the number of threads of this job, which Snakemake puts into OMP_NUM_THREADS."""
    return max(1, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))


def blockwise(function: Callable[[B], R], blocks: Sequence[B]) -> Iterator[R]:
    """Yield ``function(block)`` of each block, in order.

    Dask computes as many blocks at a time as the job has threads, so no more are in memory. The
    results do not depend on the number of threads.
    """
    count = threads()
    task = delayed(function, pure=False, traverse=False)
    for start in range(0, len(blocks), count):
        some = [task(block) for block in blocks[start : start + count]]
        scheduler = "threads" if count > 1 else "synchronous"
        results = compute(*some, scheduler=scheduler, num_workers=count)  # type: ignore[no-untyped-call]
        yield from results
