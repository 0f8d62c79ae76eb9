"""Embeddings of one shard: for each layer, a Zarr store with the channels of every cell.

`<shard>/<layer>.zarr` holds (n images, R x C cells, d channels)::

    image_id [n]            string
    cells    [n, R, C, d]   float16, or float32 where float16 would overflow
    prefix   [n, t, d]      float32, only if a layer has t tokens beside its grid

The layer's grid is stored as attributes. One chunk is one image. A shard file holds a few images,
is not compressed (activations hardly compress) and is read whole. The tokens beside the grid (the
class token and registers of a vision transformer) are no cells: SAEs are trained on the cells. The
rest of the network needs both.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mammo_sae.errors import DroppedError, StoreError
from mammo_sae.grids import LayerGrid
from mammo_sae.ordered import ahead
from mammo_sae.stores import arrays
from mammo_sae.stores.positions import Index, Positions
from mammo_sae.stores.publish import (
    create_store,
    drop_folders,
    dropped_folders,
    open_store,
    read_json,
)

KIND = "embeddings"
PREFIX = "prefix"
SHARD_BYTES = 8 << 20


class EmbeddingWriter:
    """Writes consecutive images of one shard, for all layers together."""

    def __init__(
        self,
        root: Path,
        image_ids: Sequence[str],
        grids: Sequence[LayerGrid],
        prefixes: Mapping[str, int],
    ) -> None:
        self._root = root
        self._ids = list(image_ids)
        self._grids = {grid.layer: grid for grid in grids}
        self._arrays = {layer: self._create(grid, "float16") for layer, grid in self._grids.items()}
        self._prefixes = {layer: tokens for layer, tokens in prefixes.items() if tokens}
        for layer, tokens in self._prefixes.items():
            self._arrays[_prefix_of(layer)] = self._create_prefix(self._grids[layer], tokens)
        self._pending: dict[str, list[np.ndarray]] = {name: [] for name in self._arrays}
        self._next = dict.fromkeys(self._arrays, 0)

    def write(
        self,
        maps: Mapping[str, np.ndarray],
        finite: Container[str] = (),
        prefixes: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Append a batch: for each layer an array [b, R, C, d] of any float type.

        `finite` names layers whose values the caller has already found finite, in the given type.
        Checking them again, when they are no longer in the cache, would take as long as writing.
        `prefixes` has the tokens [b, t, d] of the layers that have tokens beside their grid.

        Raises
        ------
        StoreError
            If a value is NaN or infinite. The message names layer and image.
        """
        for layer, batch in maps.items():
            grid = self._grids[layer]
            if batch.shape[1:] != (grid.rows, grid.columns, grid.channels):
                raise ValueError(f"layer {layer}: a batch of shape {batch.shape} on {grid}")
            # Convert first: this may widen the rows that are pending.
            stored = self._as_stored(layer, batch, known=layer in finite)
            self._pending[layer].append(stored)
            self._flush(layer, final=False)
        for layer, tokens in self._prefixes.items():
            batch = (prefixes or {})[layer]
            if batch.shape[1:] != (tokens, self._grids[layer].channels):
                raise ValueError(f"layer {layer}: tokens of shape {batch.shape}, not {tokens}")
            if not np.isfinite(batch).all():
                raise StoreError(
                    f"layer {layer}: NaN or infinity in the tokens beside the grid; check the "
                    "encoder's weights"
                )
            self._pending[_prefix_of(layer)].append(batch.astype(np.float32))
            self._flush(_prefix_of(layer), final=False)

    def close(self) -> None:
        """Write the pending rows and check that every image was written."""
        for name in self._arrays:
            self._flush(name, final=True)
            if self._next[name] != len(self._ids):
                raise ValueError(f"layer {name}: {self._next[name]} of {len(self._ids)} images")
        for layer in self._grids:
            arrays.consolidate(self._root / f"{layer}.zarr")

    def dtypes(self) -> dict[str, str]:
        """Return the stored number type of each layer, by the layer's name."""
        return {layer: str(self._arrays[layer].dtype) for layer in self._grids}

    def _as_stored(self, layer: str, batch: np.ndarray, *, known: bool) -> np.ndarray:
        dtype = self._arrays[layer].dtype
        with np.errstate(over="ignore"):
            stored = batch.astype(dtype, copy=False)
        if (known and np.can_cast(batch.dtype, dtype)) or _all_finite(stored):
            return stored
        if not np.isfinite(batch).all():
            bad = np.argwhere(~np.isfinite(batch))[0][0]
            done = self._next[layer] + sum(len(part) for part in self._pending[layer])
            raise StoreError(
                f"layer {layer}: NaN or infinity in image {self._ids[done + bad]}; "
                "check the encoder's weights"
            )
        self._widen(layer)
        return batch.astype(np.float32)

    def _widen(self, layer: str) -> None:
        """Convert a stored float16 layer to float32, because a value does not fit float16."""
        narrow = self._arrays[layer]
        done, rows = self._next[layer], narrow.shards[0]
        aside = self._root / f"{layer}.narrow"
        (self._root / f"{layer}.zarr").rename(aside)
        source = arrays.open_array(aside, "cells", streaming=True)
        self._arrays[layer] = self._create(self._grids[layer], "float32", rows=rows)
        if layer in self._prefixes:
            (aside / PREFIX).rename(self._root / f"{layer}.zarr" / PREFIX)
        for start in range(0, done, rows):
            stop = min(start + rows, done)
            self._arrays[layer][start:stop] = np.asarray(source[start:stop], dtype=np.float32)
        self._pending[layer] = [part.astype(np.float32) for part in self._pending[layer]]
        shutil.rmtree(aside)

    def _create(self, grid: LayerGrid, dtype: str, rows: int | None = None) -> Any:
        group = arrays.create_group(self._root / f"{grid.layer}.zarr", asdict(grid))
        arrays.write_labels(group, "image_id", self._ids)
        one = (grid.rows, grid.columns, grid.channels)
        rows = rows or max(1, SHARD_BYTES // (int(np.prod(one)) * 2))
        return arrays.create_array(
            group,
            "cells",
            shape=(len(self._ids), *one),
            dtype=dtype,
            dimensions=("image_id", "row", "column", "channel"),
            chunk=(1, *one),
            shard=(rows, *one),
            compress=False,
        )

    def _create_prefix(self, grid: LayerGrid, tokens: int) -> Any:
        shape = (tokens, grid.channels)
        rows = max(1, SHARD_BYTES // (int(np.prod(shape)) * 4))
        return arrays.create_array(
            arrays.open_group(self._root / f"{grid.layer}.zarr"),
            PREFIX,
            shape=(len(self._ids), *shape),
            dtype="float32",
            dimensions=("image_id", "token", "channel"),
            chunk=(1, *shape),
            shard=(rows, *shape),
            compress=False,
        )

    def _flush(self, layer: str, *, final: bool) -> None:
        pending, array = self._pending[layer], self._arrays[layer]
        rows = array.shards[0]
        count = sum(len(part) for part in pending)
        if not pending or (count < rows and not final):
            return
        data = pending[0] if len(pending) == 1 else np.concatenate(pending)
        whole = len(data) if final else len(data) // rows * rows
        start = self._next[layer]
        array[start : start + whole] = data[:whole]
        self._next[layer] = start + whole
        self._pending[layer] = [data[whole:]] if whole < len(data) else []


def _prefix_of(layer: str) -> str:
    return f"{layer}/{PREFIX}"


def _all_finite(values: np.ndarray) -> bool:
    """Return whether no value is NaN or infinite.

    float16 is checked by its bits, which is seventeen times faster than isfinite. The exponent of
    NaN and infinity has all bits set. Of all positive values, these are therefore the largest when
    the bits are read as signed integers; of all negative values, when read as unsigned integers.
    """
    if values.dtype != np.float16 or not values.size:
        return bool(np.isfinite(values).all())
    positive, negative = values.view(np.int16).max(), values.view(np.uint16).max()
    return bool(positive < 0x7C00 and negative < 0xFC00)


@contextmanager
def create_embedding_store(
    path: Path,
    manifest: Path,
    *,
    image_ids: Sequence[str],
    grids: Sequence[LayerGrid],
    prefixes: Mapping[str, int] | None = None,
) -> Iterator[EmbeddingWriter]:
    """Yield a writer for one shard of one pass; publish the folder `path` if the block succeeds.

    `prefixes` has the number of tokens beside the grid of each layer that has such tokens.
    """
    described: dict[str, Any] = {"images": len(image_ids), "layers": {}}
    with create_store(path, manifest, kind=KIND, describe=lambda _: described) as aside:
        writer = EmbeddingWriter(aside, image_ids, grids, prefixes or {})
        yield writer
        writer.close()
        for grid in grids:
            dtype = writer.dtypes()[grid.layer]
            tokens = (prefixes or {}).get(grid.layer, 0)
            own = {PREFIX: tokens} if tokens else {}
            described["layers"][grid.layer] = {**asdict(grid), "dtype": dtype, **own}


def drop_layers(manifest: Path, keep: Collection[str]) -> None:
    """Delete the maps of all layers of one shard except those of the layers `keep`."""
    layers = read_json(manifest)["layers"]
    drop_folders(manifest, [f"{layer}.zarr" for layer in layers if layer not in keep])


class EmbeddingReader:
    """Reads one layer's embeddings over all shards, in blocks or as single images.

    Parameters
    ----------
    manifests
        One manifest per shard, of any pass that holds `layer`.
    layer
        Name of the layer.
    image_ids
        Read only these images, in stored order (for example a split). None: all.

    Raises
    ------
    StoreError
        If a store is damaged or lacks the layer, if grids differ, or if an image is missing.
    DroppedError
        If the layer of a store was dropped (`drop_layers`).
    """

    def __init__(
        self, manifests: Sequence[Path], layer: str, image_ids: Sequence[str] | None = None
    ) -> None:
        stores = [open_store(manifest, kind=KIND) for manifest in manifests]
        if not stores:
            raise StoreError(f"no embedding store of layer {layer} given; name a manifest")
        found: dict[str, Any] = {}
        for manifest, store in zip(manifests, stores, strict=True):
            if layer not in store.manifest["layers"]:
                have = ", ".join(store.manifest["layers"])
                raise StoreError(f"{manifest} holds no layer {layer}, only {have}")
            entry = dict(store.manifest["layers"][layer])
            found.setdefault("dtypes", set()).add(entry.pop("dtype"))
            found[PREFIX] = entry.pop(PREFIX, 0)
            if found.setdefault("grid", entry) != entry:
                raise StoreError(
                    f"{manifest}: layer {layer} has another grid than in the other shards; extract "
                    "all shards again"
                )
        gone = [
            manifest
            for manifest, store in zip(manifests, stores, strict=True)
            if f"{layer}.zarr" in dropped_folders(store.path)
        ]
        if gone:
            raise DroppedError(
                f"{gone[0]}: layer {layer} was dropped to save room; delete this file and run the "
                "step that makes it",
                gone,
            )
        self.grid = LayerGrid(**found["grid"])
        self.prefix_tokens: int = found[PREFIX]
        self.dtype = np.dtype("float32" if "float32" in found["dtypes"] else "float16")
        self._paths = [store.path / f"{layer}.zarr" for store in stores]
        index = Index([arrays.read_labels(path, "image_id") for path in self._paths], KIND)
        kept = (
            np.arange(len(index))
            if image_ids is None
            else np.sort(index.positions(list(image_ids)))
        )
        self._index, self._kept = index, kept
        self.image_ids = [index.image_ids[i] for i in kept]
        self._streams = [arrays.open_array(p, "cells", streaming=True) for p in self._paths]
        self._checked = [arrays.open_array(p, "cells", streaming=False) for p in self._paths]
        self.blocks = self._plan()

    def __len__(self) -> int:
        return len(self._kept)

    def read(self, positions: Positions) -> np.ndarray:
        """Return cells [n, R, C, d] of the images at `positions` of `image_ids`, in that order."""
        wanted = self._kept[np.asarray(positions, dtype=np.int64)]
        grid = self.grid
        out = np.empty((len(wanted), grid.rows, grid.columns, grid.channels), dtype=self.dtype)
        for store, local, where in self._index.split(wanted):
            out[where] = arrays.read(self._checked[store], local, self._paths[store] / "cells")
        return out

    def prefix(self, positions: Positions) -> np.ndarray | None:
        """Return the tokens beside the cells of the images at `positions`, float32 [n, t, d].

        None if the layer has no such tokens.
        """
        if not self.prefix_tokens:
            return None
        wanted = self._kept[np.asarray(positions, dtype=np.int64)]
        out = np.empty((len(wanted), self.prefix_tokens, self.grid.channels), dtype=np.float32)
        for store, local, where in self._index.split(wanted):
            path = self._paths[store]
            array = arrays.open_array(path, PREFIX, streaming=False)
            out[where] = arrays.read(array, local, path / PREFIX)
        return out

    def read_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (positions [b], cells [b, R, C, d]) of one shard file, which is read whole."""
        store, start, stop, local, positions = self.blocks[block]
        data = arrays.read(self._streams[store], slice(start, stop), self._paths[store] / "cells")
        if len(local) < stop - start:
            data = data[local - start]
        return positions, data.astype(self.dtype, copy=False)

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (positions [b], cells [b, R, C, d]) in stored order, at most `size` images each.

        The next block is read while the caller works on this one.
        """
        for positions, data in ahead(map(self.read_block, range(len(self.blocks)))):
            for start in range(0, len(positions), size):
                yield positions[start : start + size], data[start : start + size]

    def _plan(self) -> list[tuple[int, int, int, np.ndarray, np.ndarray]]:
        """Return (store, first row, last row + 1, wanted rows, positions) of each wanted block.

        A block is a shard file with a wanted image. Rows count the images of the store.
        """
        plan = []
        for store, local, where in self._index.split(self._kept):
            array = self._streams[store]
            rows = array.shards[0] if array.shards else array.chunks[0]
            for block in np.unique(local // rows):
                mine = local // rows == block
                start = int(block) * rows
                stop = min(start + rows, array.shape[0])
                plan.append((store, start, stop, local[mine], where[mine]))
        return plan
