"""Compare the training of three SAEs in one pass over the layer's store with three passes.

    python benchmarks/bench_together.py [--turns N] [--steps N]

The store (float16, d = 352, 256 cells per image) is eight times as large as the buffer, so every
epoch reads it from disk or from the page cache. The SAEs differ in seed, k and width (h = 1408 and
2816, k = 16 and 32; batch 4096). The two ways take turns, and the script checks that they end with
the same files. It prints the wall time, the processor time and the bytes read by the trainer for
each turn, and the ratio of the medians over all turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.grids import LayerGrid
from mammo_sae.provenance import Provenance
from mammo_sae.records import write_record
from mammo_sae.sae import train_sae
from mammo_sae.sae.settings import SaeTraining, TopKVariant
from mammo_sae.settings import canonical_json
from mammo_sae.stores.embeddings import EmbeddingReader, create_embedding_store
from mammo_sae.stores.tables import write_table

D, SIDE, IMAGES, BUFFER_MIB, BATCH = 352, 16, 2048, 44, 4096


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=128)
    arguments = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    common = {"steps": arguments.steps, "batch": BATCH, "buffer": BUFFER_MIB, "lr": 1e-3}
    saes = {
        "seed0": SaeTraining(variant=TopKVariant(k=16), latents=2816, seed=0, **common),
        "seed1": SaeTraining(variant=TopKVariant(k=16), latents=2816, seed=1, **common),
        "narrow": SaeTraining(variant=TopKVariant(k=32), latents=1408, seed=0, **common),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest, images = write_store(folder)
        seconds: dict[str, list[float]] = {"together": [], "apart": []}
        for turn in range(arguments.turns):
            for way, times in seconds.items():
                started, processor, before = time.perf_counter(), time.process_time(), read_bytes()
                runs(folder / way / str(turn), saes, manifest, images, together=way == "together")
                times.append(time.perf_counter() - started)
                print(
                    f"{way:9s} {times[-1]:6.1f} s, processor {time.process_time() - processor:6.1f}"
                    f" s, read {(read_bytes() - before) / 1e9:.2f} GB",
                    flush=True,
                )
            for sae in saes:
                one, other = (
                    (folder / way / str(turn) / sae / "sae.safetensors").read_bytes()
                    for way in seconds
                )
                assert one == other, f"{sae} differs"
        ratio = statistics.median(seconds["apart"]) / statistics.median(seconds["together"])
        print(f"apart / together {ratio:.2f}")


def write_store(folder: Path) -> tuple[Path, Path]:
    """Write an embedding store and the table of its images. Return the manifest and the table."""
    random = np.random.default_rng(0)
    ids = [f"{number:016x}" for number in range(IMAGES)]
    grid = LayerGrid("layer", D, SIDE, SIDE, 16, 0.0, 0.0, SIDE * 16)
    manifest = folder / "cells.json"
    with create_embedding_store(
        folder / "cells", manifest, image_ids=ids, grids=[grid]
    ) as writer:  # fmt: skip
        for _ in range(IMAGES // 16):
            maps = random.normal(size=(16, SIDE, SIDE, D)).astype(np.float16)
            writer.write({"layer": maps})
    write_table(pd.DataFrame({"image_id": ids, "split": "training"}), folder / "images.parquet")
    return manifest, folder / "images.parquet"


def runs(
    folder: Path, saes: dict[str, SaeTraining], manifest: Path, images: Path, *, together: bool
) -> None:
    """Train all SAEs: the job of the first trains the others too, or each job reads the store."""
    for name, settings in saes.items():
        others = {folder / other / "sae.json": saes[other] for other in saes if other != name}
        outputs = train_sae.run(
            settings,
            splits=images,
            embeddings=[manifest],
            layer="layer",
            weights=folder / name / "sae.safetensors",
            description=folder / name / "sae.json",
            history=folder / name / "history.csv",
            beside=others if together else {},
            made_by=made_by,
        )
        write_record(outputs, made_by(settings), ["torch"])


def made_by(settings: SaeTraining) -> Provenance:
    """Return the provenance of an SAE that is trained with `settings`."""
    return Provenance(step="train_sae", config=canonical_json(settings), code="")


_read = 0
_read_block = EmbeddingReader.read_block


def _counted(reader: EmbeddingReader, block: int) -> tuple[np.ndarray, np.ndarray]:
    global _read
    positions, cells = _read_block(reader, block)
    _read += cells.nbytes
    return positions, cells


EmbeddingReader.read_block = _counted


def read_bytes() -> int:
    """Return the number of bytes of cells that have been read from stores so far."""
    return _read


if __name__ == "__main__":
    main()
