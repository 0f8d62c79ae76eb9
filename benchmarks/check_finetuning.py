"""Check that fine-tuning with the default recipe learns on phantoms of several seeds.

    python benchmarks/check_finetuning.py [--seeds 0 1 2] [--cores 2] [--keep DIR]

For each seed of the phantom the real workflow runs up to the table of the encoders: archive,
images, base, fine-tuning, scores. The script prints, per concept, the AUROC on the external split
of the fine-tuned encoder and of its base with a linear probe, and the number of epochs. It ends
with status 1 if an AUROC is below 0.95 or not above the AUROC of the base.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

PROJECT = Path(__file__).parents[1]
SEEDS = (*range(10), 101, 201)
LEAST = 0.95


def main() -> None:
    """Run each seed, and print its row as soon as the seed is finished."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--cores", default="all")
    parser.add_argument("--keep", type=Path, help="keep the runs in this folder")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp())
    failed = []
    try:
        for seed in arguments.seeds:
            if not scored(seed, folder, arguments.cores):
                failed.append(seed)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder)
    print(f"{len(arguments.seeds) - len(failed)} of {len(arguments.seeds)} seeds pass")
    sys.exit(bool(failed))


def scored(seed: int, folder: Path, cores: str) -> bool:
    """Run one seed and print its row. Return whether both concepts were learnt."""
    results = folder / f"seed{seed}"
    overlay = folder / f"seed{seed}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    overlay.write_text(f"name: seed{seed}\nresults: {folder}\nphantom: {{seed: {seed}}}\n")
    table = results / "tables" / "encoders.parquet"
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--quiet", "all", "--nolock", "--cores", cores,
         str(table), "--configfile", str(overlay)],
        cwd=PROJECT, check=True,
    )  # fmt: skip
    scores = pd.read_parquet(table)
    external = scores[scores["split"] == "external"].pivot(
        index="concept", columns="encoder", values="auroc"
    )
    epochs = len(pd.read_csv(results / "encoders" / "finetuned" / "history.csv")) - 1
    learnt = (external["finetuned"] >= LEAST) & (external["finetuned"] > external["pretrained"])
    cells = [
        f"{concept}: {row['finetuned']:.3f} (base {row['pretrained']:.3f})"
        for concept, row in external.iterrows()
    ]
    print(f"seed {seed}, {epochs} epochs: {', '.join(cells)}", flush=True)
    return bool(learnt.all())


if __name__ == "__main__":
    main()
