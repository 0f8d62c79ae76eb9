from __future__ import annotations

import threading
import time

import pytest

from mammo_sae.encoders.streaming import ahead


def test_items_come_in_order_from_another_thread():
    def numbers():
        for i in range(5):
            yield i, threading.get_ident()

    found = list(ahead(numbers()))
    assert [i for i, _ in found] == list(range(5))
    assert threading.get_ident() not in {thread for _, thread in found}


def test_reading_ahead_stops_at_its_bound():
    read = []

    def numbers():
        for i in range(10):
            read.append(i)
            yield i

    items = ahead(numbers(), size=2)
    next(items)
    time.sleep(0.3)
    # One given out, two waiting, one in hand.
    assert len(read) <= 4
    items.close()


def test_an_error_while_reading_ahead_reaches_the_loop():
    def numbers():
        yield 1
        raise ValueError("damaged")

    items = ahead(numbers())
    assert next(items) == 1
    with pytest.raises(ValueError, match="damaged"):
        next(items)
