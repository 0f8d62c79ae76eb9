from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mammo_sae.ordered import ahead, in_order


def test_results_come_in_the_order_of_the_items_whichever_is_ready_first():
    def slow_at_first(item):
        time.sleep(0.05 if item == 0 else 0)
        return item * 10

    with ThreadPoolExecutor(3) as pool:
        assert list(in_order(pool, slow_at_first, range(6), ahead=3)) == [0, 10, 20, 30, 40, 50]


def test_few_items_are_begun_before_they_are_asked_for():
    begun = []
    with ThreadPoolExecutor(4) as pool:
        results = in_order(pool, begun.append, range(20), ahead=2)
        next(results)
        time.sleep(0.1)
        assert len(begun) <= 3
        results.close()


def test_an_error_is_raised_in_the_place_of_its_item():
    def fails_at_two(item):
        if item == 2:
            raise ValueError("two")
        return item

    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, fails_at_two, range(6), ahead=2)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="two"):
            next(results)


def test_the_next_item_is_made_while_one_is_used():
    made = []

    def items():
        for number in range(4):
            made.append(number)
            yield number

    stream = ahead(items())
    assert next(stream) == 0
    deadline = time.monotonic() + 5
    while made != [0, 1] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1]
    assert list(stream) == [1, 2, 3]


def test_items_are_made_in_order_by_another_thread():
    def items():
        for number in range(5):
            yield number, threading.get_ident()

    found = list(ahead(items(), size=2))
    assert [number for number, _ in found] == list(range(5))
    assert threading.get_ident() not in {thread for _, thread in found}


def test_the_number_of_prepared_items_is_bounded():
    made = []

    def items():
        for number in range(10):
            made.append(number)
            yield number

    stream = ahead(items(), size=2)
    next(stream)
    time.sleep(0.3)
    assert made == [0, 1, 2]
    stream.close()
    assert len(made) <= 3


def test_an_error_in_a_prepared_item_is_raised_in_its_place():
    def items():
        yield 0
        raise ValueError("one")

    stream = ahead(items())
    assert next(stream) == 0
    with pytest.raises(ValueError, match="one"):
        next(stream)
