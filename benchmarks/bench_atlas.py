"""Build the atlas of 6 layers x 16,384 latents x 20,000 images, and measure it.

The stores and the tables are those of a rehearsal, in real sizes: images of 1520 x 912 pixels, a
grid of 48 x 29 cells, 32 codes per cell. The SAE of the head stands for the SAEs of all layers.

    python benchmarks/rehearsal.py --images 20000 --keep scratch    # first, with all its steps
    python benchmarks/bench_atlas.py scratch/results/n20000h16384
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_sae.stores.tables import read_table, write_table

PROJECT = Path(__file__).resolve().parents[1]
ENCODER, LAYER, SAE, SEED = "tuned", "head", "topk", "seed0"
# Tables of one SAE that the atlas shows.
TABLES = (
    *("latents", "alignment", "alignment_by_size", "regions", "confounds", "replication"),
    *("verdict_replication", "interventions", "effects", "ablation", "reliance"),
)
QUALITY = {"explained_variance": 0.8, "l0": 32.0, "latents": 16384, "dead_share": 0.05}


def layers(count: int) -> list[str]:
    """Return names of layers, the head last."""
    return [*(f"blocks.{20 + i}" for i in range(count - 1)), LAYER]


def write_run(source: Path, folder: Path, count: int) -> None:
    """Write a run of `count` layers, whose stores are links to those of the rehearsal."""
    for layer in layers(count):
        for kind, name in (("codes", f"{SEED}.json"), ("codes", f"{SEED}.zarr"), ("sae", SEED)):
            target = folder / kind / ENCODER / layer / SAE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to((source / kind / ENCODER / LAYER / SAE / name).resolve())
    known = source / "analysis" / ENCODER / LAYER / SAE / SEED
    for table in TABLES:
        rows = read_table(known / f"{table}.parquet")
        every = [rows.assign(layer=layer) for layer in layers(count)]
        write_table(pd.concat(every, ignore_index=True), folder / "tables" / f"{table}.parquet")
    key = {"encoder": ENCODER, "sae": SAE, "seed": 0}
    quality = pd.DataFrame([{**key, "layer": layer, **QUALITY} for layer in layers(count)])
    write_table(quality, folder / "tables" / "sae_quality.parquet")
    scores = read_table(source / "heads" / ENCODER / "scores.parquet")
    write_table(scores, folder / "tables" / "encoders.parquet")
    registry = pd.DataFrame([{"encoder": ENCODER, "licence": "none"}])
    write_table(registry, folder / "registry.csv")
    tables = {name: folder / "tables" / f"{name}.parquet" for name in ("latents", "alignment")}
    tables |= {name: folder / "tables" / f"{name}.parquet" for name in ("confounds",)}
    options = [word for name, path in tables.items() for word in (f"--{name}", path)]
    for suffix in ("csv", "parquet"):
        options += [f"--{suffix}", folder / f"verdicts.{suffix}"]
    run("verdicts", *options)
    (folder / "verdicts.parquet").rename(folder / "tables" / "verdicts.parquet")


def run(step: str, *words: object) -> None:
    """Run a step in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "mammo_sae", step, *map(str, words)],
        check=True,
        env={**os.environ, "PYTHONPATH": f"{PROJECT / 'src'}:{PROJECT / 'benchmarks/measuring'}"},
    )


def build(source: Path, folder: Path) -> None:
    """Build the atlas of the run."""
    shards = [path for path in (source / "images").glob("*.json") if path.stem.isdecimal()]
    run(
        "atlas",
        *("--settings", "{}", "--images", source / "cohort" / "images.parquet"),
        *("--image-stores", *sorted(shards, key=lambda path: int(path.stem))),
        *("--codes", *sorted(folder.glob(f"codes/*/*/*/{SEED}.json"))),
        *("--saes", *sorted(folder.glob(f"sae/*/*/*/{SEED}/sae.json"))),
        *("--heads", source / "heads" / ENCODER / "head.json"),
        *("--logits", source / "heads" / ENCODER / "predictions.parquet"),
        *("--tables", *sorted(folder.glob("tables/*.parquet"))),
        *("--registry", folder / "registry.csv", "--content", "{}", "--split", "test"),
        *("--store", folder / "atlas", "--manifest", folder / "atlas.json"),
    )


def measures(folder: Path) -> dict[str, Any]:
    """Return the measures of the build, and the sizes of the atlas in bytes."""
    (file,) = folder.glob("atlas.[0-9]*.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    files = [path for path in (folder / "atlas").rglob("*") if path.is_file()]
    sizes = {path.relative_to(folder / "atlas").as_posix(): path.stat().st_size for path in files}

    def total(part: str) -> int:
        return sum(size for name, size in sizes.items() if name.startswith(part))

    tables = [size for name, size in sizes.items() if name.endswith("/table.js")]
    return {
        **{name: round(found[name], 1) for name in ("seconds", "cpu_seconds", "mib")},
        "bytes": total(""),
        "files": len(sizes),
        "start_page": sizes["index.html"],
        "data": total("data/"),
        "pictures": total("images/"),
        "largest_table": max(tables),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of the results of a rehearsal")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--keep", type=Path, help="keep the run and the atlas in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.source.resolve().parent) as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["MEASURES"] = str(folder)
        write_run(arguments.source, folder, arguments.layers)
        build(arguments.source, folder)
        print(json.dumps(measures(folder), indent=1))


if __name__ == "__main__":
    main()
