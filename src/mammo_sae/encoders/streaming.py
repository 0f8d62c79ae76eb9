"""Reading ahead of a loop, a few batches at most in memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

_END = object()


def ahead(iterable: Iterable[T], size: int = 2) -> Iterator[T]:
    """Yield from `iterable`, which runs in a thread of its own, up to `size` items ahead."""
    ready: queue.Queue[Any] = queue.Queue(size)
    stop = threading.Event()

    def offer(item: Any) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                break
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in iterable:
                offer(item)
                if stop.is_set():
                    return
            offer(_END)
        except BaseException as error:
            offer(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
