"""Writers that collect rows until a whole shard file can be written."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr


class BlockWriter:
    """Collects rows (images) until a shard is complete, then writes it once.

    Writing single rows into a sharded array would read and rewrite the shard for every row. Memory
    holds the incomplete shards. If the rows come in order, only one shard is incomplete.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array = array
        self._rows = (array.shards or array.chunks)[0]
        self._open: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._written = np.zeros(array.shape[0], dtype=bool)

    def write(self, position: int, row: np.ndarray) -> None:
        """Add one row. It has the shape of the array without the first axis."""
        if row.shape != self._array.shape[1:]:
            raise ValueError(f"row of shape {row.shape} in an array of {self._array.shape}")
        block = position // self._rows
        if block not in self._open:
            size = min(self._rows, self._array.shape[0] - block * self._rows)
            self._open[block] = (
                np.zeros((size, *self._array.shape[1:]), dtype=self._array.dtype),
                np.zeros(size, dtype=bool),
            )
        data, there = self._open[block]
        data[position - block * self._rows] = row
        there[position - block * self._rows] = True
        if there.all():
            self._flush(block)

    def close(self) -> None:
        """Check that every row was written.

        Raises
        ------
        ValueError
            If rows are missing, since the store would seem complete.
        """
        missing = np.flatnonzero(~self._written)
        if len(missing):
            raise ValueError(f"{len(missing)} rows never written, the first is {missing[0]}")

    def _flush(self, block: int) -> None:
        data, _ = self._open.pop(block)
        start = block * self._rows
        self._array[start : start + len(data)] = data
        self._written[start : start + len(data)] = True


class TailWriter:
    """Appends to a one-dimensional array of unknown length, a whole shard at a time."""

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array = array
        self._size = (array.shards or array.chunks)[0]
        self._done = 0
        self._waiting: list[np.ndarray] = []
        self._length = 0

    def append(self, values: np.ndarray) -> None:
        """Add values [m]. At most a shard and one call's values wait in memory."""
        self._waiting.append(values.astype(self._array.dtype))
        self._length += len(values)
        while self._length >= self._size:
            self._flush(self._size)

    def close(self) -> None:
        """Write the values that wait, and set the array's length."""
        self._flush(self._length)
        self._array.resize((self._done,))

    def _flush(self, length: int) -> None:
        values = np.concatenate([*self._waiting, np.empty(0, self._array.dtype)])
        self._waiting, self._length = [values[length:]], len(values) - length
        if length:
            self._array.resize((self._done + length,))
            self._array[self._done :] = values[:length]
            self._done += length
