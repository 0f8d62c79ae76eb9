"""Codes of one SAE: the active latents of every cell, and their pooling per image.

Arrays (n images, R x C cells, h latents)::

    image_id  [n]           string
    latent    [h]           int32
    mean      [n, h]        float32, mean over all cells
    max       [n, h]        float32, maximum over all cells (*)
    active    [n, h]        float32, share of cells with a code above 0

and `mean_breast`, `max_breast`, `active_breast`: the same over the cells that the breast touches
(0 if it touches none) (*). (*) Cells above the norm limit of the SAE, if it has one, are left out.
Only an SAE with a limit has::

    short     [n, R, C]     bool, whether a cell is not above the limit

If no cell has more than k codes, the codes are stored as::

    index     [n, R, C, k]  uint16 (uint32 from 65,536 latents on)
    value     [n, R, C, k]  float32; an unused slot has index 0, value 0

If the number of codes varies, they are stored as a contiguous ragged array (CF conventions, CSR)::

    offset    [n + 1]       int64, where each image's codes begin
    count     [n, R, C]     int32, number of codes of each cell, cells in row-major order
    index     [codes]       as above
    value     [codes]       float32

Dimensions and coordinates have names, so `xarray.open_zarr` labels them. No dense [cells, h] array
is ever stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mammo_sae.errors import StoreError
from mammo_sae.grids import LayerGrid
from mammo_sae.stores import arrays
from mammo_sae.stores.blocks import BlockWriter, TailWriter
from mammo_sae.stores.positions import Index, Positions
from mammo_sae.stores.publish import create_store, open_store

KIND = "codes"
IMAGES_PER_SHARD = 64
LATENTS_PER_CHUNK = 2048
CODES_PER_CHUNK = 1 << 14
CODES_PER_SHARD = 1 << 22
BLOCK_BYTES = 64 << 20
"""Bytes of pooled codes that an analysis holds at a time."""
POOLED = ("mean", "max", "active", "mean_breast", "max_breast", "active_breast")


class CodesWriter:
    """Writes codes image by image. Every image must be written exactly once.

    With `k`, images may come in any order. Without `k`, they must come in the order of the store.
    """

    def __init__(
        self, group: Any, n: int, grid: LayerGrid, latents: int, k: int | None, limited: bool
    ) -> None:
        self._latents = latents
        self._k = k
        self._limited = limited
        kind = "uint16" if latents <= 1 << 16 else "uint32"
        cells = (grid.rows, grid.columns)
        self._blocks: dict[str, BlockWriter] = {}
        self._tails: dict[str, TailWriter] = {}
        # Float mantissas of activations hardly compress, so values are stored uncompressed.
        for name, dtype in (("index", kind), ("value", "float32")):
            if k is None:
                self._tails[name] = TailWriter(
                    arrays.create_array(
                        group,
                        name,
                        shape=(CODES_PER_SHARD,),
                        dtype=dtype,
                        dimensions=("code",),
                        chunk=(CODES_PER_CHUNK,),
                        shard=(CODES_PER_SHARD,),
                        compress=name == "index",
                    )
                )
            else:
                self._add_block(
                    group, name, (n, *cells, k), dtype, ("slot",), compress=name == "index"
                )
        if k is None:
            self._add_block(group, "count", (n, *cells), "int32", (), compress=True)
            self._offset = arrays.create_array(
                group,
                "offset",
                shape=(n + 1,),
                dtype="int64",
                dimensions=("edge",),
                chunk=(n + 1,),
                compress=True,
            )
            self._begin = np.zeros(n + 1, np.int64)
            self._next = 0
        if limited:
            self._add_block(group, "short", (n, *cells), "bool", (), compress=True)
        for name in POOLED:
            self._blocks[name] = BlockWriter(
                arrays.create_array(
                    group,
                    name,
                    shape=(n, latents),
                    dtype="float32",
                    dimensions=("image_id", "latent"),
                    chunk=(IMAGES_PER_SHARD, LATENTS_PER_CHUNK),
                    compress=True,
                )
            )

    def _add_block(
        self,
        group: Any,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        last: tuple[str, ...],
        *,
        compress: bool,
    ) -> None:
        self._blocks[name] = BlockWriter(
            arrays.create_array(
                group,
                name,
                shape=shape,
                dtype=dtype,
                dimensions=("image_id", "row", "column", *last),
                chunk=(1, *shape[1:]),
                shard=(IMAGES_PER_SHARD, *shape[1:]),
                compress=compress,
            )
        )

    def write(
        self,
        positions: Positions,
        index: np.ndarray,
        value: np.ndarray,
        pooled: Mapping[str, np.ndarray],
        short: np.ndarray | None = None,
    ) -> None:
        """Store a batch: index and value [b, R, C, m], and an array [b, h] for each of `POOLED`.

        m is the store's k, or any number without k. Slots of value 0 are unused. `short` [b, R, C]
        says which cells are not above the limit of an SAE that has one.

        Raises
        ------
        ValueError
            If an index is not a latent, images come out of order in a store without k, or `short`
            is given without a limit or missing with one.
        """
        if (short is not None) != self._limited:
            raise ValueError("short belongs to the codes of an SAE with a limit, and to no others")
        if index.size and (index.min() < 0 or index.max() >= self._latents):
            raise ValueError(f"a code's latent lies outside of 0..{self._latents - 1}")
        batch = {name: pooled[name] for name in POOLED}
        if short is not None:
            batch["short"] = short
        if self._k is None:
            batch["count"] = self._append(positions, index, value)
        else:
            batch |= {"index": index, "value": value}
        for name, rows in batch.items():
            for position, row in zip(positions, rows, strict=True):
                self._blocks[name].write(int(position), row)

    def _append(self, positions: Positions, index: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Append codes; return their number per cell [b, R, C]."""
        last = self._next + len(positions)
        if list(positions) != list(range(self._next, last)):
            raise ValueError(f"images {list(positions)} do not follow image {self._next - 1}")
        used = value > 0
        count = used.sum(axis=-1, dtype=np.int32)
        total = count.sum(axis=(1, 2), dtype=np.int64).cumsum()
        self._begin[self._next + 1 : last + 1] = self._begin[self._next] + total
        self._next = last
        self._tails["index"].append(index[used])
        self._tails["value"].append(value[used])
        return count

    def close(self) -> None:
        """Check that every image was written."""
        for block in self._blocks.values():
            block.close()
        for tail in self._tails.values():
            tail.close()
        if self._k is None:
            self._offset[:] = self._begin


@contextmanager
def create_codes_store(
    path: Path,
    manifest: Path,
    *,
    image_ids: Sequence[str],
    grid: LayerGrid,
    latents: int,
    k: int | None,
    limited: bool = False,
    attributes: dict[str, Any] | None = None,
) -> Iterator[CodesWriter]:
    """Yield a writer of one SAE's codes of `image_ids`; publish the store if the block succeeds.

    `k` is the largest number of codes of a cell, or None if the number varies. `limited` says
    whether the SAE leaves out cells above a norm.
    """
    describe = {"images": len(image_ids), "grid": asdict(grid), "latents": latents, "k": k}
    if limited:
        describe["limited"] = True
    with create_store(path, manifest, kind=KIND, describe=describe) as aside:
        group = arrays.create_group(aside, {**(attributes or {}), "grid": asdict(grid)})
        arrays.write_labels(group, "image_id", image_ids)
        latent = arrays.create_array(
            group,
            "latent",
            shape=(latents,),
            dtype="int32",
            dimensions=("latent",),
            chunk=(latents,),
            compress=True,
        )
        latent[:] = np.arange(latents, dtype=np.int32)
        writer = CodesWriter(group, len(image_ids), grid, latents, k, limited)
        yield writer
        writer.close()
        arrays.consolidate(aside)


class CodesReader:
    """Reads one SAE's codes.

    Raises
    ------
    StoreError
        If the store is damaged or of another kind.
    """

    def __init__(self, manifest: Path) -> None:
        store = open_store(manifest, kind=KIND)
        self.path = store.path
        self.grid = LayerGrid(**store.manifest["grid"])
        self.latents: int = store.manifest["latents"]
        self.k: int | None = store.manifest["k"]
        self._index = Index([arrays.read_labels(self.path, "image_id")], KIND)
        self._limited: bool = store.manifest.get("limited", False)
        ragged = ("count", "offset") if self.k is None else ()
        short = ("short",) if self._limited else ()
        # Values have only a CRC-32C, and single images are read. Only the pipeline of zarr-python
        # compares the CRC-32C then.
        self._arrays = {
            name: arrays.open_array(self.path, name, streaming=name != "value")
            for name in ("index", "value", *ragged, *short, *POOLED)
        }
        if self.k is None:
            self._offset = arrays.read(self._arrays["offset"], slice(None), self.path / "offset")

    @property
    def image_ids(self) -> list[str]:
        """Ids of the images, in stored order."""
        return self._index.image_ids

    def __len__(self) -> int:
        return len(self._index)

    def position(self, image_id: str) -> int:
        """Return the position of an image in `image_ids`."""
        return self._index.position(image_id)

    def cells(self, positions: Positions) -> tuple[np.ndarray, np.ndarray]:
        """Return (index int32, value float32), each [n, R, C, m], at `positions`.

        m is k, or the largest number of codes of a cell in these images. Unused slots have index 0
        and value 0.
        """
        if self.k is not None:
            index = self._read("index", positions).astype(np.int32)
            return index, self._read("value", positions)
        count = self._read("count", positions)
        used = np.arange(max(1, count.max(initial=0))) < count[..., None]
        index, value = np.zeros(used.shape, np.int32), np.zeros(used.shape, np.float32)
        for name, out in (("index", index), ("value", value)):
            parts = [self._part(name, int(position)) for position in positions]
            out[used] = np.concatenate(parts) if parts else []
        return index, value

    def counted_cells(self, positions: Positions) -> tuple[np.ndarray, np.ndarray]:
        """Return what `cells` returns, with value 0 in cells above the limit of the SAE.

        These cells say nothing of their place, so maps and their scores leave them out.
        """
        index, value = self.cells(positions)
        if self._limited:
            value = value * self._read("short", positions)[..., None]
        return index, value

    def widths(self, positions: Positions) -> np.ndarray:
        """Return int [n]: the slots of a cell that `cells` returns for each image alone."""
        if self.k is not None:
            return np.full(len(positions), self.k)
        return self._read("count", positions).max(axis=(1, 2), initial=1)

    def pooled(
        self,
        name: str,
        image_ids: Sequence[str] | None = None,
        latents: Positions | None = None,
    ) -> np.ndarray:
        """Return float32 [n, m]: the pooled codes `name` (one of `POOLED`) of each image.

        Images and latents come in the given order, and None means all. Only the chunks that hold
        them are read. All latents of a large cohort do not fit into memory: see `latent_blocks` and
        `image_blocks`.

        Raises
        ------
        StoreError
            If the store is damaged, or has no such image or latent.
        """
        rows = np.arange(len(self)) if image_ids is None else self._index.positions(image_ids)
        columns = np.arange(self.latents) if latents is None else self._known(latents)
        return arrays.read_table(
            self._arrays[name], np.asarray(rows, np.int64), columns, self.path / name
        )

    def pooled_mean(self, name: str, image_ids: Sequence[str]) -> np.ndarray:
        """Return float64 [h]: the mean of the pooled codes `name` over images; NaN without one."""
        if not len(image_ids):
            return np.full(self.latents, np.nan)
        total = np.zeros(self.latents)
        for ids in self.image_blocks(image_ids):
            total += self.pooled(name, ids).sum(axis=0, dtype=np.float64)
        return total / len(image_ids)

    def latent_blocks(self, images: int, latents: Positions | None = None) -> list[np.ndarray]:
        """Return `latents` (None: all) in ascending blocks, int [b] each, to read with `pooled`.

        The pooled codes of `images` images and the latents of one block take at most `BLOCK_BYTES`,
        for any numbers of images (up to 33 million) and latents. A chunk is decompressed once per
        block that needs it: four times at 20,000 images, 16 times at 100,000.
        """
        wanted = np.sort(np.arange(self.latents) if latents is None else self._known(latents))
        fits = max(1, BLOCK_BYTES // (4 * max(1, images)))
        # A power of two divides a chunk into equal blocks.
        width = min(LATENTS_PER_CHUNK, 1 << (fits.bit_length() - 1))
        return [wanted[start : start + width] for start in range(0, len(wanted), width)]

    def image_blocks(self, image_ids: Sequence[str] | None = None) -> list[list[str]]:
        """Return `image_ids` (None: all, as stored) in blocks of ids, to read with `pooled`.

        The pooled codes of one block's images and all latents take at most `BLOCK_BYTES`.
        """
        ids = self.image_ids if image_ids is None else list(image_ids)
        chunks = BLOCK_BYTES // (4 * max(1, self.latents) * IMAGES_PER_SHARD)
        step = max(1, chunks) * IMAGES_PER_SHARD
        return [ids[start : start + step] for start in range(0, len(ids), step)]

    def maps(self, positions: Positions, latents: Positions) -> np.ndarray:
        """Return float32 [n, m, R, C]: the maps of m `latents` for the images at `positions`.

        Cells above the limit of the SAE, if it has one, are 0.
        """
        wanted = self._known(latents)
        index, value = self.counted_cells(positions)
        n, rows, columns, _ = index.shape
        slot = np.full(self.latents, -1, dtype=np.int64)
        slot[wanted] = np.arange(len(wanted))
        target = slot[index]
        # Unused slots point at latent 0 with value 0; adding 0 does not change its map.
        image, row, column, _ = np.nonzero(target >= 0)
        out = np.zeros((n, len(wanted), rows, columns), dtype=np.float32)
        hit = target >= 0
        np.add.at(out, (image, target[hit], row, column), value[hit])
        return out

    def dataset(self) -> Any:
        """Return the store as a labelled `xarray.Dataset` that loads lazily."""
        import xarray

        return xarray.open_zarr(self.path)

    def _known(self, latents: Positions) -> np.ndarray:
        wanted = np.asarray(latents, dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= self.latents):
            raise StoreError(f"{self.path} has latents 0..{self.latents - 1}, not {wanted.max()}")
        return wanted

    def _part(self, name: str, position: int) -> np.ndarray:
        begin, end = self._offset[position : position + 2]
        return arrays.read(self._arrays[name], slice(int(begin), int(end)), self.path / name)

    def _read(self, name: str, positions: Positions) -> np.ndarray:
        return arrays.read(self._arrays[name], positions, self.path / name)
