"""The codes step against the SAE's bare encode of the same cells in memory.

    python benchmarks/bench_codes.py results/phantom [pretrained blocks.10]

The bare encode gets batches of the step's size, already float16 tensors in memory. Both are run in
turns; the best of each counts. Clock and processor time, cells a second and their ratio.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mammo_sae.sae import codes
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.embeddings import EmbeddingReader


def timed(work: Callable[[], None]) -> tuple[float, float]:
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("encoder", nargs="?", default="pretrained")
    parser.add_argument("layer", nargs="?", default="blocks.10")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    layer, folder = arguments.layer, arguments.run / "embeddings" / arguments.encoder
    shards = [path for path in folder.glob("*/*.json") if path.stem.isdigit()]
    embeddings = sorted(path for path in shards if layer in path.parent.name.split("+"))
    masks = sorted(p for p in (arguments.run / "images").glob("*.json") if p.stem.isdigit())
    sae = arguments.run / "sae" / arguments.encoder / layer / "topk" / "seed0" / "sae.json"
    reader = EmbeddingReader(embeddings, layer)
    model = SparseAutoencoder.load(sae)
    images = max(1, codes.CELLS_PER_BATCH // (reader.grid.rows * reader.grid.columns))
    batches = [
        torch.from_numpy(cells.copy()).reshape(-1, model.channels)
        for _, cells in reader.batches(images)
    ]
    count = sum(len(batch) for batch in batches)
    encode = model.encoder()

    def bare() -> None:
        for batch in batches:
            encode(batch)

    def step() -> None:
        with tempfile.TemporaryDirectory() as folder:
            codes.run(
                sae=sae,
                embeddings=embeddings,
                image_stores=masks,
                layer=layer,
                store=Path(folder) / "codes.zarr",
                manifest=Path(folder) / "codes.json",
            )

    best = {name: [float("inf")] * 2 for name in ("bare", "step")}
    for _ in range(arguments.turns):
        for name, work in (("bare", bare), ("step", step)):
            best[name] = list(map(min, best[name], timed(work)))
    print(f"{count} cells, d {model.channels}, h {model.latents}, {model.slots} codes a cell")
    for name, (clock, cpu) in best.items():
        print(f"{name}: {clock:.2f} s, {cpu:.2f} s of processor, {count / clock:,.0f} cells/s")
    print(
        f"rate of the step over that of the bare encode: {best['bare'][0] / best['step'][0]:.2f}"
        f" by the clock, {best['bare'][1] / best['step'][1]:.2f} by processor time"
    )


if __name__ == "__main__":
    main()
