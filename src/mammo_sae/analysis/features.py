"""Features of many images, standardised, for regressions whose memory does not grow with them.

A regression needs only products with the features. Codes are mostly zeros, so they are kept as
sparse columns. Embeddings are kept as rows. Features above `MEMORY` bytes lie in a temporary file
and are read in blocks for each product. Standardising is part of the products: (x - mean) / spread
of a sparse column would not be sparse.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

MEMORY = 64 << 20
"""Bytes of features that are kept in memory."""

BLOCK = 16 << 20
"""Bytes of features that are read at a time."""

VARIES = 1e-12
"""A feature with a standard deviation up to this does not vary."""


class Product(Protocol):
    """A matrix [n, f] of f features of n images, known by its products."""

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of images and features."""

    def times(self, weights: np.ndarray) -> np.ndarray:
        """Return the product [n, r] with `weights` [f, r]."""

    def transposed_times(self, values: np.ndarray) -> np.ndarray:
        """Return the product [f, r] of the transposed matrix with `values` [n, r]."""


class Matrix(Product, Protocol):
    """Values that can be standardised."""

    def moments(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean [f] and standard deviation [f] over the images `found`."""


class _Parts:
    """Arrays that are read in sequence, in memory or, above `MEMORY` bytes, in a file."""

    def __init__(self) -> None:
        self._held: list[np.ndarray] = []
        self._places: list[tuple[np.dtype, tuple[int, ...], int]] = []
        self._file: BinaryIO | None = None
        self._size = 0

    def append(self, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values)
        self._places.append((values.dtype, values.shape, self._size))
        self._size += values.nbytes
        if self._file is None:
            self._held.append(values)
            if self._size > MEMORY:
                # It has no name, and it ends with the job. TMPDIR says in which folder it lies.
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
                for held in self._held:
                    held.tofile(self._file)
                self._held = []
        else:
            values.tofile(self._file)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> np.ndarray:
        if self._file is None:
            return self._held[number]
        dtype, shape, place = self._places[number]
        self._file.seek(place)
        return np.fromfile(self._file, dtype, int(np.prod(shape))).reshape(shape)


class SparseColumns:
    """Features that are mostly 0, from arrays [n, b] of some features each, dense or sparse."""

    def __init__(self, images: int, blocks: Iterable[np.ndarray | sparse.csc_array]) -> None:
        self._parts, self._starts = _Parts(), [0]
        for block in blocks:
            columns = sparse.csc_array(block)
            for part in (columns.data, columns.indices.astype(np.int32), columns.indptr):
                self._parts.append(part)
            self._starts.append(self._starts[-1] + block.shape[1])
        self.shape = (images, self._starts[-1])

    def blocks(self) -> Iterator[tuple[slice, sparse.csc_array]]:
        """Yield (features, their values [n, b] in float64)."""
        for number, (start, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            data, indices, edges = (self._parts[3 * number + i] for i in range(3))
            shape = (self.shape[0], end - start)
            block = sparse.csc_array((data.astype(np.float64), indices, edges), shape=shape)
            yield slice(start, end), block

    def times(self, weights: np.ndarray) -> np.ndarray:
        """Return the product [n, r] with `weights` [f, r]."""
        result = np.zeros((self.shape[0], weights.shape[1]))
        for features, block in self.blocks():
            result += block @ weights[features]
        return result

    def transposed_times(self, values: np.ndarray) -> np.ndarray:
        """Return the product [f, r] of the transposed matrix with `values` [n, r]."""
        result = np.empty((self.shape[1], values.shape[1]))
        for features, block in self.blocks():
            result[features] = block.T @ values
        return result

    def moments(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean [f] and standard deviation [f] over the images `found`."""
        mean, spread = np.empty(self.shape[1]), np.empty(self.shape[1])
        times = np.bincount(found, minlength=self.shape[0]).astype(np.float64)
        for features, block in self.blocks():
            mean[features] = times @ block / len(found)
            fires = block.copy()
            fires.data = np.square(block.data - np.repeat(mean[features], np.diff(block.indptr)))
            silent = block.copy()
            silent.data = np.ones_like(block.data)
            silent_images = len(found) - times @ silent
            total = times @ fires + silent_images * np.square(mean[features])
            spread[features] = np.sqrt(total / len(found))
        return mean, spread


class DenseRows:
    """Features that are rarely 0, from arrays [b, f] of some images each.

    The images come in order, or `order` [n] holds the position of each. It is read when all blocks
    were taken.
    """

    def __init__(self, blocks: Iterable[np.ndarray], order: Sequence[int] | None = None) -> None:
        self._parts, self._starts, features = _Parts(), [0], 0
        for block in blocks:
            features = block.shape[1]
            self._parts.append(block)
            self._starts.append(self._starts[-1] + len(block))
        self.shape = (self._starts[-1], features)
        self._order = np.arange(self.shape[0]) if order is None else np.asarray(order, np.int64)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (positions of images, their values [b, f] in float64)."""
        for number, (start, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            yield self._order[start:end], self._parts[number].astype(np.float64)

    def times(self, weights: np.ndarray) -> np.ndarray:
        """Return the product [n, r] with `weights` [f, r]."""
        result = np.empty((self.shape[0], weights.shape[1]))
        for images, block in self.blocks():
            result[images] = block @ weights
        return result

    def transposed_times(self, values: np.ndarray) -> np.ndarray:
        """Return the product [f, r] of the transposed matrix with `values` [n, r]."""
        result = np.zeros((self.shape[1], values.shape[1]))
        for images, block in self.blocks():
            result += block.T @ values[images]
        return result

    def moments(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean [f] and standard deviation [f] over the images `found`."""
        times = np.bincount(found, minlength=self.shape[0]).astype(np.float64)
        mean = self.transposed_times(times[:, None])[:, 0] / len(found)
        total = np.zeros(self.shape[1])
        for images, block in self.blocks():
            total += times[images] @ np.square(block - mean)
        return mean, np.sqrt(total / len(found))


def row_blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yield `values` [n, f] in blocks of rows of at most `BLOCK` bytes."""
    step = max(1, BLOCK // max(1, values.itemsize * values.shape[1]))
    for start in range(0, len(values), step):
        yield values[start : start + step]


@dataclass(frozen=True)
class Standardised:
    """Features with mean 0 and variance 1 over some images; those that do not vary are left out.

    Attributes
    ----------
    matrix
        Values [n, all features].
    kept : [f]
        The features that vary.
    mean, spread : [f]
    """

    matrix: Matrix
    kept: np.ndarray
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def over(cls, matrix: Matrix, found: np.ndarray) -> Standardised:
        """Return the features of `matrix` that vary over the images `found`, standardised."""
        mean, spread = matrix.moments(found)
        kept = np.flatnonzero(spread > VARIES)
        return cls(matrix, kept, mean[kept], spread[kept])

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of images and features."""
        return self.matrix.shape[0], len(self.kept)

    def times(self, weights: np.ndarray) -> np.ndarray:
        """Return the product [n, r] with `weights` [f, r]."""
        scaled = np.zeros((self.matrix.shape[1], weights.shape[1]))
        scaled[self.kept] = weights / self.spread[:, None]
        return self.matrix.times(scaled) - self.mean @ scaled[self.kept]

    def transposed_times(self, values: np.ndarray) -> np.ndarray:
        """Return the product [f, r] of the transposed matrix with `values` [n, r]."""
        products = self.matrix.transposed_times(values)[self.kept]
        return (products - np.outer(self.mean, values.sum(axis=0))) / self.spread[:, None]

    def mean_difference(self, found: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Return the standardised mean difference [f] of the images `found` with label 1 and 0.

        See `mammo_sae.statistics.standardised_mean_difference`.
        """
        high, low = found[truth], found[~truth]
        if len(high) < 2 or len(low) < 2:
            return np.full(len(self.kept), np.nan)
        (above, wide), (below, narrow) = (self.matrix.moments(rows) for rows in (high, low))
        variance = np.square(wide) * len(high) / (len(high) - 1)
        variance += np.square(narrow) * len(low) / (len(low) - 1)
        spread = np.sqrt(variance / 2)[self.kept]
        difference = (above - below)[self.kept]
        return np.divide(difference, spread, out=np.full(spread.shape, np.nan), where=spread > 0)

    def principal(self, found: np.ndarray, count: int) -> np.ndarray:
        """Return [f, count]: the directions of largest variance over the images `found`.

        With at most `count` features, they are the features themselves.
        """
        features = len(self.kept)
        if features <= count:
            return np.eye(features)
        times = np.bincount(found, minlength=self.shape[0]).astype(np.float64)[:, None]

        def product(direction: np.ndarray) -> np.ndarray:
            projected = self.times(direction.reshape(-1, 1)) * times
            return self.transposed_times(projected)[:, 0]

        gram = LinearOperator((features, features), matvec=product, dtype=np.float64)
        # A fixed start makes the result the same each time.
        start = np.cos(np.arange(features, dtype=np.float64))
        _, directions = eigsh(gram, count, v0=start, tol=1e-8)
        return np.ascontiguousarray(directions[:, ::-1])
