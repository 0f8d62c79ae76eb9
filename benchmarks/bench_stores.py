"""Compare reads of an embedding store with those of zarr alone and of the files' bytes.

    python benchmarks/bench_stores.py [--images 96] [--turns 5]

The store has random cells of the size of Mammo-CLIP B5's head. Four ways read it in turns, and the
median turn of each counts: the bytes of its files, each whole file at once (`bytes`), all images in
stored order by zarr with its default settings (`zarr`) and by the reader from which an SAE is
trained (`in order`), and single images in random order as an atlas page reads them (`random`).
Files are in the computer's memory, so a disk is not measured.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from mammo_sae.grids import LayerGrid
from mammo_sae.stores.embeddings import EmbeddingReader, create_embedding_store

GRID = LayerGrid("head", 2048, 48, 29, 32, 0.0, 0.0, 800)


def write(folder: Path, images: int) -> Path:
    """Write the store and return the path of its manifest."""
    rng = np.random.default_rng(0)
    ids = [f"{number:016x}" for number in range(images)]
    manifest = folder / "0.json"
    with create_embedding_store(folder / "0", manifest, image_ids=ids, grids=[GRID]) as writer:
        for _ in ids:
            shape = (1, GRID.rows, GRID.columns, GRID.channels)
            writer.write({"head": rng.standard_normal(shape, dtype=np.float32)})
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reader = EmbeddingReader([write(Path(folder), arguments.images)], "head")
        files = sorted(path for path in Path(folder, "0").rglob("*") if path.is_file())
        order = np.random.default_rng(1).permutation(len(reader))

        def of_bytes() -> None:
            for path in files:
                path.read_bytes()

        array = zarr.open_array(Path(folder, "0", "head.zarr", "cells"), mode="r")
        length = (array.shards or array.chunks)[0]

        def of_zarr() -> None:
            for start in range(0, len(reader), length):
                array[start : start + length]

        def in_order() -> None:
            for _ in reader.batches(16):
                pass

        def single() -> None:
            for position in order:
                reader.read([position])

        ways: dict[str, Callable[[], None]] = {
            "bytes": of_bytes, "zarr": of_zarr, "in order": in_order, "random": single
        }  # fmt: skip
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.turns):
            for name, way in ways.items():
                begun = time.perf_counter()
                way()
                times[name].append(time.perf_counter() - begun)
        cells = GRID.rows * GRID.columns * GRID.channels
        size = len(reader) * cells * reader.dtype.itemsize / 1e6
        bare = statistics.median(times["zarr"])
        for name, seconds in times.items():
            median = statistics.median(seconds)
            print(
                f"{name:9} {size / median:8,.0f} MB/s  rate over that of zarr {bare / median:.2f}"
            )


if __name__ == "__main__":
    main()
