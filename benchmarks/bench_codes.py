"""Compare the speed of the codes step with that of the SAE's encoder on cells in memory.

    python benchmarks/bench_codes.py                        # Mammo-CLIP B5's head, made up
    python benchmarks/bench_codes.py --run results/phantom  # the head of a finished run

The encoder alone gets batches of the step's size that are float16 tensors in memory. Both are run
in turns, and the best turn of each counts. The script prints wall time, processor time, cells per
second and the ratio of both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mammo_sae.grids import LayerGrid
from mammo_sae.sae import codes
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.embeddings import EmbeddingReader, create_embedding_store
from mammo_sae.stores.images import ImageRecord, create_image_store

CHANNELS, LATENTS, SLOTS, ROWS, COLUMNS = 2048, 16384, 32, 48, 29


def timed(work: Callable[[], None]) -> tuple[float, float]:
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a finished run; default: random data")
    parser.add_argument("--encoder", default="pretrained")
    parser.add_argument("--layer", default="head")
    parser.add_argument("--images", type=int, default=32, help="made-up images")
    parser.add_argument("--turns", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = (
            made_up(Path(folder), arguments.images)
            if arguments.run is None
            else of_run(arguments.run, arguments.encoder, arguments.layer)
        )
        race(*found, arguments.layer, arguments.turns)


def of_run(run: Path, encoder: str, layer: str) -> tuple[Path, list[Path], list[Path]]:
    """Return the paths of the SAE and of the manifests of embeddings and images of a run."""
    shards = [p for p in (run / "embeddings" / encoder).glob("*/*.json") if p.stem.isdigit()]
    embeddings = sorted(path for path in shards if layer in path.parent.name.split("+"))
    masks = sorted(path for path in (run / "images").glob("*.json") if path.stem.isdigit())
    return run / "sae" / encoder / layer / "topk" / "seed0" / "sae.json", embeddings, masks


def made_up(folder: Path, images: int) -> tuple[Path, list[Path], list[Path]]:
    """Write such files for random cells and atoms of the size of Mammo-CLIP B5's head.

    The paths are returned as by `of_run`.
    """
    rng = np.random.default_rng(0)
    grid = LayerGrid("head", CHANNELS, ROWS, COLUMNS, 32, 0.0, 0.0, 800)
    ids = [f"{number:016x}" for number in range(images)]
    embeddings, masks = folder / "0.json", folder / "images.json"
    with create_embedding_store(folder / "0", embeddings, image_ids=ids, grids=[grid]) as writer:
        for _ in ids:
            cells = rng.standard_normal((1, ROWS, COLUMNS, CHANNELS), dtype=np.float32)
            writer.write({"head": cells.clip(0)})
    height, width = 32 * ROWS, 32 * COLUMNS
    breast = np.zeros((height, width), bool)
    breast[:, : width // 2] = True
    record = ImageRecord(
        pixels=rng.integers(0, 255, (height, width), np.uint8), breast=breast,
        regions=np.zeros((0, height, width), bool), affine=np.eye(2, 3), flipped=False,
        spacing_mm=0.1,
    )  # fmt: skip
    with create_image_store(
        folder / "images", masks, image_ids=ids, height=height, width=width, regions=[]
    ) as store:
        for number in range(images):
            store.write(number, record)
    atoms = torch.nn.functional.normalize(torch.randn(LATENTS, CHANNELS))
    sae = SparseAutoencoder(
        encoder_weight=atoms.clone(), encoder_bias=torch.zeros(LATENTS), decoder_weight=atoms,
        decoder_bias=torch.zeros(CHANNELS), k=SLOTS,
    )  # fmt: skip
    sae.save(folder / "sae.safetensors", folder / "sae.json")
    return folder / "sae.json", [embeddings], [masks]


def race(sae: Path, embeddings: list[Path], masks: list[Path], layer: str, turns: int) -> None:
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
    for _ in range(turns):
        for name, work in (("bare", bare), ("step", step)):
            best[name] = list(map(min, best[name], timed(work)))
    print(f"{count} cells, d {model.channels}, h {model.latents}, {model.k} codes a cell")
    for name, (clock, cpu) in best.items():
        print(f"{name}: {clock:.2f} s, {cpu:.2f} s of processor, {count / clock:,.0f} cells/s")
    print(
        f"rate of the step over that of the bare encode: {best['bare'][0] / best['step'][0]:.2f}"
        f" by the clock, {best['bare'][1] / best['step'][1]:.2f} by processor time"
    )


if __name__ == "__main__":
    main()
