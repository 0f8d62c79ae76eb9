"""Measure the time and memory that `snakemake -n` needs to plan a large cohort.

The archive is synthetic: tables with VinDr-Mammo's layout and empty files. Planning reads only
their names, sizes and times. Two plans are measured: without any results, and with all results.

    python benchmarks/bench_dryrun.py --images 480000 --per-shard 480
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
CONFIG = """
name: large
cohort: {{kind: vindr, source: source, shards: {shards}}}
encoders:
  pretrained: {{kind: pretrained}}
  finetuned: {{kind: finetuned, base: pretrained, freeze: blocks.4}}
layers: [blocks.10, blocks.14, head]
"""


def plan(folder: Path, *arguments: str) -> tuple[dict[str, float], str]:
    """Return the time and memory of a dry run in `folder`, and its output."""
    with (folder / "plan.log").open("w+") as stream:
        began = time.perf_counter()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "snakemake", "-n", "--cores", "8", "--quiet", "rules"),
                *("--configfile", "large.yaml", *arguments),
            ],
            cwd=folder,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        stream.seek(0)
        text = stream.read()
    if status:
        sys.exit(text[-4000:])
    cost = {
        "seconds": round(seconds, 1),
        "CPU seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "MiB": round(usage.ru_maxrss / 1024),
    }
    return cost, text


def jobs(text: str) -> int:
    """Return the total number of jobs from the output of a dry run."""
    if "Nothing to be done" in text:
        return 0
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("total"))


def write_archive(folder: Path, images: int) -> None:
    """Write an archive with four images per study and without findings."""
    breasts = ["study_id,image_id,laterality,view_position,height,width,breast_birads,"
               "breast_density,split"]  # fmt: skip
    views = [("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO")]
    for number in range(images):
        study, image = f"{number // 4:032x}", f"{number + (1 << 64):032x}"
        side, view = views[number % 4]
        split = "training" if number // 4 % 5 else "test"
        breasts.append(f"{study},{image},{side},{view},3518,2800,BI-RADS 1,DENSITY B,{split}")
        path = folder / "images" / study / f"{image}.dicom"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "breast-level_annotations.csv").write_text("\n".join(breasts) + "\n")
    (folder / "finding_annotations.csv").write_text(
        "study_id,image_id,finding_categories,xmin,ymin,xmax,ymax\n"
    )
    (folder / "metadata.csv").write_text("SOP Instance UID\n")


def pretend(folder: Path) -> None:
    """Create every output of the run as an empty file, all with the same time."""
    summary = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--cores", "8", "--summary"),
            *("--configfile", "large.yaml"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    names = [line.split("\t")[0] for line in summary[1:]]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".zarr") or "." not in path.name:
            path.mkdir()
        else:
            path.write_text("")
        os.utime(path, (0, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=480_000)
    parser.add_argument("--per-shard", type=int, default=480, help="images of a shard")
    options = parser.parse_args()
    shards = -(-options.images // options.per_shard)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("Snakefile", "workflow", "src", "config", "profiles", "envs"):
            source = PROJECT / part
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / part)
        write_archive(folder / "source", options.images)
        (folder / "large.yaml").write_text(CONFIG.format(shards=shards))
        row: dict[str, object] = {"images": options.images, "shards": shards}
        cost, text = plan(folder)
        row["nothing there"] = {"jobs": jobs(text), **cost}
        pretend(folder)
        cost, text = plan(folder)
        row["all there"] = {"jobs": jobs(text), **cost}
        print(json.dumps(row))


if __name__ == "__main__":
    main()
