"""Layout and checks that all Zarr arrays of this package share.

Two codec pipelines read the same bytes. `zarrs` is compiled and decodes with several threads. But
when only a part of a shard file is read, `zarrs` does not compare the chunks' CRC-32C, and
zarr-python does. So whole shard files are streamed by `zarrs`, and single chunks are read by
zarr-python. Compressed arrays are safe with both, which compare Zstandard's own checksum.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from mammo_sae.errors import StoreError

FAST = "zarrs.ZarrsCodecPipeline"
CHECKED = "zarr.core.codec_pipeline.BatchedCodecPipeline"
TABLE_BYTES = 8 << 20
"""Bytes of chunks that `read_table` decompresses at a time."""
CHECKED_ZSTD = ZstdCodec(level=1, checksum=True)


def create_group(path: Path, attributes: dict[str, Any]) -> zarr.Group:
    """Create an empty Zarr group (format 3) with `attributes` at `path`."""
    with zarr.config.set({"codec_pipeline.path": FAST}):
        return zarr.open_group(path, mode="w", zarr_format=3, attributes=attributes)


def open_group(path: Path) -> zarr.Group:
    """Open the Zarr group at `path`, to create further arrays in it."""
    with zarr.config.set({"codec_pipeline.path": FAST}):
        return zarr.open_group(path, mode="r+", zarr_format=3)


def create_array(
    group: zarr.Group,
    name: str,
    *,
    shape: Sequence[int],
    dtype: str,
    dimensions: Sequence[str],
    chunk: Sequence[int],
    shard: Sequence[int] | None = None,
    compress: bool,
) -> zarr.Array[Any]:
    """Create an array whose chunks contain a checksum. Chunk and shard are clipped to the array."""
    chunk = [max(1, min(c, s)) for c, s in zip(chunk, shape, strict=True)]
    if shard is not None:
        # A shard holds whole chunks, so round it up to a multiple of the chunk.
        shard = [
            c * max(1, -(-min(big, s) // c)) for c, big, s in zip(chunk, shard, shape, strict=True)
        ]
    # Use one worker. With several, a shard's chunks would be in the order in which the workers
    # finish, so the same content would have different bytes each time.
    with zarr.config.set({"codec_pipeline.path": FAST, "threading.max_workers": 1}):
        return group.create_array(
            name,
            shape=tuple(shape),
            dtype=dtype,
            chunks=tuple(chunk),
            shards=tuple(shard) if shard is not None else None,
            compressors=[CHECKED_ZSTD] if compress else [Crc32cCodec()],
            dimension_names=list(dimensions),
            fill_value=0,
            # Chunks of zeros are written too, so a missing file always means damage.
            config={"write_empty_chunks": True},
        )


def write_labels(group: zarr.Group, name: str, labels: Sequence[str]) -> None:
    """Write a one-dimensional array of strings along the dimension of the same name."""
    array = group.create_array(
        name,
        shape=(len(labels),),
        dtype=str,
        dimension_names=[name],
        chunks=(max(1, len(labels)),),
        compressors=[CHECKED_ZSTD],
    )
    if labels:
        array[:] = np.asarray(list(labels), dtype=object)


def write_texts(
    group: zarr.Group, name: str, table: Sequence[Sequence[str]], dimensions: Sequence[str]
) -> None:
    """Write a two-dimensional array of strings. An empty table is not written."""
    shape = (len(table), len(table[0]) if table else 0)
    if 0 in shape:
        return
    array = group.create_array(
        name,
        shape=shape,
        dtype=str,
        dimension_names=list(dimensions),
        chunks=shape,
        compressors=[CHECKED_ZSTD],
    )
    array[:] = np.asarray(table, dtype=object)


def consolidate(path: Path) -> None:
    """Copy every array's metadata into the group's, so that readers need not list the folder.

    Without a listing, readers also don't take the file list of a store for a part of its hierarchy.
    """
    with warnings.catch_warnings():
        # Zarr's format 3 does not define consolidation yet, but zarr-python and xarray read it.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)


def open_array(path: Path, name: str, *, streaming: bool) -> zarr.Array[Any]:
    """Open one array for reading: whole shards (`streaming`) or single chunks.

    Raises
    ------
    StoreError
        If there is no such array.
    """
    with zarr.config.set({"codec_pipeline.path": FAST if streaming else CHECKED}):
        try:
            return zarr.open_array(path / name, mode="r", zarr_format=3)
        except (FileNotFoundError, KeyError):
            raise StoreError(f"{path} has no array {name!r}; rebuild the store") from None


def read(array: zarr.Array[Any], selection: Any, where: Path) -> np.ndarray:
    """Return part of an array along its first axis, given a slice or a list of positions.

    Raises
    ------
    StoreError
        If a checksum does not match. The message names the store.
    """
    with _checked(where):
        if isinstance(selection, slice):
            return np.asarray(array[selection])
        return _gather(array, np.asarray(selection, dtype=np.int64))


def read_table(
    array: zarr.Array[Any], rows: np.ndarray, columns: np.ndarray, where: Path
) -> np.ndarray:
    """Return the elements of an array [n, h] at `rows` and `columns`, two lists of positions.

    Only chunks with a wanted row and a wanted column are read, and at most `TABLE_BYTES` of them
    are in memory at a time besides the result.

    Raises
    ------
    StoreError
        If a checksum does not match. The message names the store.
    """
    out = np.empty((len(rows), len(columns)), dtype=array.dtype)
    with _checked(where):
        for across in _runs(columns, array.chunks[1], 1):
            left, right = columns[across].min(), columns[across].max() + 1
            high = array.chunks[0] * array.chunks[1] * array.dtype.itemsize
            for down in _runs(rows, array.chunks[0], max(1, TABLE_BYTES // high)):
                top, bottom = rows[down].min(), rows[down].max() + 1
                part = np.asarray(array[int(top) : int(bottom), int(left) : int(right)])
                out[np.ix_(down, across)] = part[np.ix_(rows[down] - top, columns[across] - left)]
    return out


@contextmanager
def _checked(where: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        raise StoreError(
            f"{where} is damaged ({error}); delete the store's manifest and rerun"
        ) from None


def _runs(positions: np.ndarray, chunk: int, most: int) -> list[np.ndarray]:
    """Return the indices of `positions` in groups; a group lies in at most `most` chunks in a row.

    Positions may be in any order.
    """
    order = np.argsort(positions, kind="stable")
    group = positions[order] // (chunk * most)
    return [run for run in np.split(order, np.flatnonzero(np.diff(group)) + 1) if run.size]


def _gather(array: zarr.Array[Any], positions: np.ndarray) -> np.ndarray:
    """Return the rows at `positions`, reading one slice per run of neighbouring chunks.

    Positions may be in any order. The fast pipeline reads only slices. For a list, the slow
    pipeline would be used, which also keeps every shard file that it reads in memory.
    """
    out = np.empty((len(positions), *array.shape[1:]), dtype=array.dtype)
    order = np.argsort(positions, kind="stable")
    chunk = positions[order] // array.chunks[0]
    for run in np.split(order, np.flatnonzero(np.diff(chunk) > 1) + 1):
        if run.size:
            start = int(positions[run[0]])
            rows = np.asarray(array[start : int(positions[run[-1]]) + 1])
            out[run] = rows[positions[run] - start]
    return out


def read_texts(path: Path, name: str, shape: tuple[int, int]) -> np.ndarray:
    """Return a two-dimensional array of strings, with dtype object."""
    if 0 in shape:
        return np.empty(shape, dtype=object)
    return np.asarray(_whole(path, name), dtype=object)


def read_attributes(path: Path) -> dict[str, Any]:
    """Return a group's attributes."""
    return dict(zarr.open_group(path, mode="r", zarr_format=3).attrs)


def read_labels(path: Path, name: str) -> list[str]:
    """Return an array of strings as a list."""
    return [str(label) for label in _whole(path, name)]


def _whole(path: Path, name: str) -> np.ndarray:
    array = open_array(path, name, streaming=False)
    return read(array, slice(None), path / name)
