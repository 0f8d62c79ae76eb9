"""Run work in parallel and take the results in order, with a limited number in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R]:
    """Yield `function(item)` in the order of `items`, computed by `pool`.

    At most `ahead` items are started beyond the one that is waited for. When the caller stops, or
    when an item fails, items that have not started are dropped.
    """
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def ahead(
    items: Iterable[T], size: int = 1, start: Callable[[], None] | None = None
) -> Iterator[T]:
    """Yield `items` in order. While the caller uses one, a thread prepares up to `size` more.

    The thread calls `start` first.
    """
    source = iter(items)

    def following() -> list[T]:
        return list(islice(source, 1))

    with ThreadPoolExecutor(1, initializer=start) as pool:
        waiting = deque(pool.submit(following) for _ in range(size))
        try:
            while found := waiting.popleft().result():
                waiting.append(pool.submit(following))
                yield found[0]
        finally:
            for future in waiting:
                future.cancel()
