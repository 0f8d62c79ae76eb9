"""Features of many images, standardised, for regressions whose memory does not grow with them.

A regression needs only products with the features. They are computed by blocks of images. Codes are
mostly zeros, so they are kept as sparse columns, and a block of them is made dense before it is
multiplied: a dense product of single precision is ten times as fast as a sparse one. Embeddings are
kept as rows. Features above `MEMORY` bytes lie in a temporary file and are read again for each
product. Standardising is part of the products: (x - mean) / spread of a sparse column would not be
sparse.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
from scipy import sparse
from scipy.linalg import eigh

from mammo_sae.temporary import write_whole

MEMORY = 64 << 20
"""Bytes of features that are kept in memory."""

BLOCK = 16 << 20
"""Bytes of features that are multiplied at a time."""

VARIES = 1e-12
"""A feature with a standard deviation up to this does not vary."""

Between = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A function of positions of images [b] and their products [b, r] that returns values [b, r]."""


class Features(Protocol):
    """A matrix [n, f] of f features of n images, known by its products."""

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of images and features."""

    def times(self, weights: np.ndarray) -> np.ndarray:
        """Return the product [n, r] with `weights` [f, r]."""

    def transposed_times(self, values: np.ndarray) -> np.ndarray:
        """Return the product [f, r] of the transposed matrix with `values` [n, r]."""

    def there_and_back(self, weights: np.ndarray, between: Between) -> np.ndarray:
        """Return [f, r]: ``transposed_times(between(images, times(weights)))``, in one reading."""

    def columns(self, some: np.ndarray) -> DenseRows:
        """Return the features `some` [g] in single precision."""


class Matrix:
    """Values [n, f] that come in dense blocks of images, and can be standardised."""

    shape: tuple[int, int]

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (positions of images, their values [b, f])."""
        raise NotImplementedError

    def times(self, weights: np.ndarray) -> np.ndarray:
        """Return the product [n, r] with `weights` [f, r]."""
        result = np.empty((self.shape[0], weights.shape[1]))
        for images, block in self.blocks():
            result[images] = block @ weights.astype(block.dtype, copy=False)
        return result

    def transposed_times(self, values: np.ndarray) -> np.ndarray:
        """Return the product [f, r] of the transposed matrix with `values` [n, r]."""
        result = np.zeros((self.shape[1], values.shape[1]))
        for images, block in self.blocks():
            result += block.T @ values[images].astype(block.dtype, copy=False)
        return result

    def there_and_back(self, weights: np.ndarray, between: Between) -> np.ndarray:
        """Return [f, r]: ``transposed_times(between(images, times(weights)))``."""
        result = np.zeros((self.shape[1], weights.shape[1]))
        for images, block in self.blocks():
            products = block @ weights.astype(block.dtype, copy=False)
            result += block.T @ between(images, products).astype(block.dtype, copy=False)
        return result

    def columns(
        self, some: np.ndarray, mean: np.ndarray | float = 0.0, spread: np.ndarray | float = 1.0
    ) -> DenseRows:
        """Return (values - mean) / spread of the features `some` [g] in single precision."""
        order: list[int] = []

        def parts() -> Iterator[np.ndarray]:
            for images, block in self.blocks():
                order.extend(images)
                yield ((block[:, some] - mean) / spread).astype(np.float32)

        return DenseRows(parts(), order)

    def moments(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean [f] and standard deviation [f] over the images `found`."""
        times = np.bincount(found, minlength=self.shape[0]).astype(np.float64)
        mean, total = np.zeros(self.shape[1]), np.zeros(self.shape[1])
        for images, block in self.blocks():
            mean += times[images] @ block
        mean /= len(found)
        for images, block in self.blocks():
            total += times[images] @ np.square(block - mean)
        return mean, np.sqrt(total / len(found))


class Parts:
    """Arrays that are read in sequence, in memory or, above `MEMORY` bytes, in a file.

    Raises
    ------
    InputError
        If the disk of the file has no room for it.
    """

    def __init__(self) -> None:
        self._held: list[np.ndarray] = []
        self._places: list[tuple[np.dtype, tuple[int, ...], int]] = []
        self._file: IO[bytes] | None = None
        self._size = 0

    def append(self, values: np.ndarray) -> None:
        """Add an array at the end."""
        values = np.ascontiguousarray(values)
        self._places.append((values.dtype, values.shape, self._size))
        self._size += values.nbytes
        if self._file is None:
            self._held.append(values)
            if self._size > MEMORY:
                # It has no name, and it ends with the job. TMPDIR says in which folder it lies.
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
                for held in self._held:
                    self._write(held)
                self._held = []
        else:
            self._file.seek(0, os.SEEK_END)  # reading moved the file's position
            self._write(values)

    def _write(self, values: np.ndarray) -> None:
        assert self._file is not None
        write_whole(
            self._file,
            values,
            folder=tempfile.gettempdir(),
            size=f"more than {self._size / 2**30:.1f} GiB",
            remedy="free space on its disk, or name another folder in the variable TMPDIR",
        )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> np.ndarray:
        return self.read(number, 0, self._places[number][1][0])

    def read(self, number: int, start: int, stop: int) -> np.ndarray:
        """Return the elements or rows `start` to `stop` of an array, or those up to its end."""
        if self._file is None:
            return self._held[number][start:stop]
        dtype, (length, *rest), place = self._places[number]
        of_one = int(np.prod(rest, dtype=np.int64))
        start, stop = int(start), min(int(stop), length)
        self._file.seek(place + start * of_one * dtype.itemsize)
        values = np.fromfile(self._file, dtype, (stop - start) * of_one)
        return values.reshape(stop - start, *rest)


class SparseRows(Matrix):
    """Features that are mostly 0, from arrays [b, f] of some images each, in order.

    Blocks have the precision of the arrays, and at most `BLOCK` bytes when they are dense.
    """

    def __init__(self, blocks: Iterable[np.ndarray | sparse.csr_array]) -> None:
        self._parts, self._starts, features = Parts(), [0], 0
        for block in blocks:
            features = block.shape[1]
            step = max(1, BLOCK // max(1, block.dtype.itemsize * features))
            for start in range(0, block.shape[0], step):
                rows = sparse.csr_array(block[start : start + step])
                for part in (rows.data, rows.indices.astype(np.int32), rows.indptr):
                    self._parts.append(part)
                self._starts.append(self._starts[-1] + rows.shape[0])
        self.shape = (self._starts[-1], features)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (positions of images, their values [b, f])."""
        for images, block in self._sparse():
            yield images, block.toarray()

    def moments(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean [f] and standard deviation [f] over the images `found`."""
        times = np.bincount(found, minlength=self.shape[0]).astype(np.float64)
        mean, total, silent = (np.zeros(self.shape[1]) for _ in range(3))
        for images, block in self._sparse():
            mean += times[images] @ block
        mean /= len(found)
        for images, block in self._sparse():
            far = np.square(block.data - mean[block.indices])
            total += times[images] @ sparse.csr_array(
                (far, block.indices, block.indptr), block.shape
            )
            one = np.ones(len(far))
            silent -= times[images] @ sparse.csr_array(
                (one, block.indices, block.indptr), block.shape
            )
        total += (silent + len(found)) * np.square(mean)
        return mean, np.sqrt(total / len(found))

    def _sparse(self) -> Iterator[tuple[np.ndarray, sparse.csr_array]]:
        for number, (start, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            values = tuple(self._parts[3 * number + i] for i in range(3))
            yield (
                np.arange(start, end),
                sparse.csr_array(values, shape=(end - start, self.shape[1])),
            )


class DenseRows(Matrix):
    """Features that are rarely 0, from arrays [b, f] of some images each.

    Parameters
    ----------
    blocks
        The arrays. Their images come in order, or `order` says which they are.
    order : [n]
        The position of each image. It is read when all blocks were taken.
    precision
        Type of the blocks that are read again. Single precision is twice as fast, and precise
        enough for features that are standardised.
    """

    def __init__(
        self,
        blocks: Iterable[np.ndarray],
        order: Sequence[int] | None = None,
        precision: type[np.floating[Any]] = np.float64,
    ) -> None:
        self._precision = precision
        self._parts, self._starts, features = Parts(), [0], 0
        for block in _joined(blocks):
            features = block.shape[1]
            self._parts.append(block)
            self._starts.append(self._starts[-1] + len(block))
        self.shape = (self._starts[-1], features)
        self._order = np.arange(self.shape[0]) if order is None else np.asarray(order, np.int64)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (positions of images, their values [b, f])."""
        for number, (start, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            yield self._order[start:end], self._parts[number].astype(self._precision, copy=False)


def _joined(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield `blocks` [b, f], small ones together: products with few rows are slow."""
    held: list[np.ndarray] = []
    for block in blocks:
        held.append(block)
        if sum(part.nbytes for part in held) >= BLOCK // 4:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


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
        scaled = self._scaled(weights)
        return self.matrix.times(scaled) - self.mean @ scaled[self.kept]

    def transposed_times(self, values: np.ndarray) -> np.ndarray:
        """Return the product [f, r] of the transposed matrix with `values` [n, r]."""
        return self._centred(self.matrix.transposed_times(values), values.sum(axis=0))

    def there_and_back(self, weights: np.ndarray, between: Between) -> np.ndarray:
        """Return [f, r]: ``transposed_times(between(images, times(weights)))``."""
        scaled = self._scaled(weights)
        middle, total = self.mean @ scaled[self.kept], np.zeros(weights.shape[1])

        def inner(images: np.ndarray, products: np.ndarray) -> np.ndarray:
            nonlocal total
            values = between(images, products - middle)
            total += values.sum(axis=0)
            return values

        return self._centred(self.matrix.there_and_back(scaled, inner), total)

    def columns(self, some: np.ndarray) -> DenseRows:
        """Return the features `some` [g], counted among those that vary, in single precision."""
        return self.matrix.columns(self.kept[some], self.mean[some], self.spread[some])

    def _scaled(self, weights: np.ndarray) -> np.ndarray:
        scaled = np.zeros((self.matrix.shape[1], weights.shape[1]))
        scaled[self.kept] = weights / self.spread[:, None]
        return scaled

    def _centred(self, products: np.ndarray, total: np.ndarray) -> np.ndarray:
        return (products[self.kept] - np.outer(self.mean, total)) / self.spread[:, None]

    def mean_differences(self, found: np.ndarray, truths: np.ndarray) -> np.ndarray:
        """Return [f, t]: standardised mean differences of the images `found` with label 1 and 0.

        See `mammo_sae.statistics.standardised_mean_difference`.

        Parameters
        ----------
        found : [m]
        truths : [m, t] bool
        """
        count = np.stack([truths.sum(axis=0), (~truths).sum(axis=0)])
        member = np.zeros((self.shape[0], 2 * truths.shape[1]))
        np.add.at(member, found, np.concatenate([truths, ~truths], axis=1))
        sums = np.zeros((2, len(self.kept), member.shape[1]))
        for images, block in self.matrix.blocks():
            values = (block[:, self.kept] - self.mean) / self.spread
            sums[0] += values.T @ member[images]
            sums[1] += np.square(values, out=values).T @ member[images]
        shape = (len(self.kept), 2, truths.shape[1])
        total, squares = (part.reshape(shape) for part in sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = total / count
            variance = ((squares - count * np.square(mean)) / (count - 1)).mean(axis=1)
            difference = (mean[:, 0] - mean[:, 1]) / np.sqrt(variance)
        estimated = (variance > VARIES) & (count >= 2).all(axis=0)
        return np.where(estimated, difference, np.nan)

    def principal(self, found: np.ndarray, count: int) -> np.ndarray:
        """Return [f, count]: the directions of largest variance over the images `found`.

        With at most `count` features, they are the features themselves.
        """
        features = len(self.kept)
        if features <= count:
            return np.eye(features)
        times = np.bincount(found, minlength=self.shape[0]).astype(np.float64)
        gram = np.zeros((features, features))
        for images, block in self.matrix.blocks():
            values = (block[:, self.kept] - self.mean) / self.spread
            gram += values.T @ (values * times[images, None])
        last = [features - count, features - 1]
        _, directions = eigh(gram, subset_by_index=last, overwrite_a=True, check_finite=False)
        return np.ascontiguousarray(directions[:, ::-1])
