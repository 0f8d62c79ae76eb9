"""A function of blocks runs in the job's threads, on a few blocks at a time."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from mammo_sae.blockwise import blockwise, threads


@pytest.mark.parametrize(("said", "count"), [("1", 1), ("3", 3)])
def test_as_many_blocks_are_in_work_as_the_job_has_threads(monkeypatch, said, count):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads() == count
    working, most, lock = [0], [0], threading.Lock()

    def total(block):
        with lock:
            working[0] += 1
            most[0] = max(most[0], working[0])
        time.sleep(0.05)
        with lock:
            working[0] -= 1
        return int(block.sum())

    blocks = [np.arange(i) for i in range(7)]
    assert list(blockwise(total, blocks)) == [0, 0, 1, 3, 6, 10, 15]
    assert most[0] == count


def test_the_error_of_a_block_is_raised():
    with pytest.raises(KeyError, match="wrong"):
        list(blockwise({}.__getitem__, ["wrong"]))
