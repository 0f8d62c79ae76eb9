"""Ablate the confounded latents of a classifier that uses the marker: a part of `make truth`.

    python benchmarks/check_ablation.py [--seed 21] [--keep DIR] [--cores 2]

In the demo's phantom masses are easy to see, and its fine-tuned classifier hardly uses the marker.
In the phantom of this script masses are fainter, and marker and mass have a higher odds ratio. So
a classifier that is fine-tuned on it uses the marker. In the split `external`, marker and mass are
independent.

The steps `ablation` and `inner_ablation` remove the latents that are confounded by the marker, at
the head and at the finest layer with an SAE. The script prints the AUROC over all images and the
lowest AUROC over pairs of groups (docs/method.md, "Ablation") in the split `external`, before and
after the ablation, with the difference that random sets of latents make. It ends with status 1 if
at the finest layer the lowest AUROC does not rise by 0.05, or if 95 % of the random sets do not
stay below the rise.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mammo_sae.demo import DEMO
from mammo_sae.stores.tables import read_table

PROJECT = Path(__file__).parents[1]
CONCEPT, CONFOUNDER, SPLIT = "mass", "marker", "external"
ENCODER, FINEST = "finetuned", "blocks.10"
LAYERS = (FINEST, "head")
GOAL = 0.05
# Contrast of the masses, in display units, and odds ratio of mass and marker. The demo has 0.16 to
# 0.28 and 8.
CONTRAST = (0.10, 0.18)
ODDS_RATIO = 12.0


def main() -> None:
    """Run the workflow on the phantom, print the table, and compare it with the goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--keep", type=Path, help="keep the results in this folder")
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    folder = (arguments.keep or Path(tempfile.mkdtemp())).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        results = run_workflow(folder, arguments.seed, arguments.cores)
        rows = pd.concat([read_table(table(results, layer)) for layer in LAYERS], ignore_index=True)
        sys.exit(report(rows))
    finally:
        if not arguments.keep:
            shutil.rmtree(folder)


def configuration(seed: int) -> dict[str, Any]:
    """Return the keys that differ from the default configuration."""
    saes: dict[str, Any] = DEMO["saes"]
    return {
        "name": "leaning",
        "phantom": {
            "seed": seed,
            "mass": {"contrast": list(CONTRAST)},
            "confounders": {
                CONFOUNDER: {"odds_ratio": ODDS_RATIO},
                "vendor": {"odds_ratio": 1.0},
            },
        },
        "encoders": {
            "pretrained": {"kind": "pretrained"},
            ENCODER: {"kind": "finetuned", "base": "pretrained", "freeze": FINEST},
        },
        "layers": list(LAYERS),
        "inner": {"layers": [FINEST]},
        "inner_ablation": {"random_sets": 20},
        "saes": {"topk": {"layers": {"head": saes["topk"]["layers"]["head"]}}},
        "confounds": {
            "acquisition": [CONFOUNDER, "paddle", "manufacturer"],
            "anatomical": ["density", "view", "side", "age_bin"],
        },
    }


def table(results: Path, layer: str) -> Path:
    """Return the path of a layer's table `ablation`."""
    return results / "analysis" / ENCODER / layer / "topk" / "seed0" / "ablation.parquet"


def run_workflow(folder: Path, seed: int, cores: int) -> Path:
    """Run the workflow up to the tables `ablation`. Return the folder of the results."""
    overlay = {"results": folder.as_posix(), **configuration(seed)}
    file = folder / "leaning.yaml"
    file.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    results = folder / "leaning"
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--quiet", "all", "--nolock", "--cores", str(cores),
         *(str(table(results, layer)) for layer in LAYERS), "--configfile", str(file)],
        cwd=PROJECT, check=True,
    )  # fmt: skip
    return results


def report(rows: pd.DataFrame) -> int:
    """Print the AUROCs before and after the ablation. Return the exit status."""
    rows = rows[
        (rows["concept"] == CONCEPT) & (rows["latents_of"] == CONCEPT) & (rows["split"] == SPLIT)
        & (rows["called_for"] == CONFOUNDER)
        & (((rows["confounder"] == CONFOUNDER) & (rows["measure"] == "worst_group"))
           | ((rows["confounder"] == "") & (rows["measure"] == "auroc")))
    ]  # fmt: skip
    rows = rows.sort_values(["layer", "verdicts", "refit", "measure"], ascending=[True, False] * 2)
    for _, row in rows.iterrows():
        head = "refitted head" if row["refit"] else "own head"
        print(
            f"{row['layer']}, {head}, {row['latents']} latents {row['verdicts']}, "
            f"{row['measure']}: {row['before']:.3f} -> {row['after']:.3f}, "
            f"difference {_interval(row, 'difference')}, "
            f"random sets {_interval(row, 'random_difference')}"
            + (f" ({row['reason']})" if row["reason"] else "")
        )
    goal = rows[(rows["layer"] == FINEST) & (rows["measure"] == "worst_group")]
    reached = goal[
        (goal["difference"] >= GOAL) & (goal["difference"] > goal["random_difference_high"])
    ]
    print("The goal is met." if len(reached) else "The goal is missed.")
    return int(reached.empty)


def _interval(row: pd.Series, name: str) -> str:
    return f"{row[name]:+.3f} [{row[f'{name}_low']:+.3f}, {row[f'{name}_high']:+.3f}]"


if __name__ == "__main__":
    main()
