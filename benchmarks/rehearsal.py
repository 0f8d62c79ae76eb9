"""Run every step after extraction on synthetic results, and print the time and memory that it took.

    python benchmarks/rehearsal.py --images 1000 4000            # all steps
    python benchmarks/rehearsal.py --images 4000 --steps latents confounds --keep scratch

For each number of images the results up to the codes are written (`rehearsal_results.py`), in the
sizes of the paper's setting: EfficientNet-B5 at 1520 x 912, 16,384 latents, 32 codes per cell. Then
Snakemake runs the rules of the workflow on them, one job at a time, on two cores. Each job measures
itself (`measuring/sitecustomize.py`): wall time, processor time, peak memory. The request is what
the rule asks of SLURM at the first attempt, for the largest number of images.

With --slurm, each job is a job of a real SLURM. If that was started with
`ENFORCE=1 tests/workflow/slurm.sh start`, it kills a job that needs more memory than it asked for.

With several sizes, the columns `~ n^` have the exponent of n: memory or time grows as n to this
power, from the second largest to the largest size. The columns `at EMBED` extrapolate a straight
line through these two sizes to 480,000 images.

One SAE is analysed (`tuned`, `head`, seed 0). The tables of the others, which the report needs, are
copies of its tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rehearsal_results import Results, shards_of

from mammo_sae.config import load_config, read_yaml
from mammo_sae.resources import need
from mammo_sae.stores.tables import read_table, write_table

PROJECT = Path(__file__).resolve().parents[1]
EMBED = 480_000
CONFIG = """
name: n{images}h{latents}
results: {results}
cohort:
  kind: vindr
  source: /nowhere
  shards: {shards}
  external: /nowhere
images: {{preprocessing: mammo_clip, height: 1520, width: 912}}
encoders:
  base: {{kind: pretrained, source: {{kind: mammo_clip, path: /nowhere}}}}
  tuned: {{kind: finetuned, base: base, freeze: null}}
layers: [blocks.26, head]
saes:
  topk:
    variant: {{name: topk, k: 32}}
    latents: {latents}
    seeds: [0, 1]
    steps: 50
    layers: {{blocks.26: {{latents: 1408}}}}
  control:
    variant: {{name: random, k: 32}}
    latents: {latents}
    steps: 50
    only: {{layers: [head]}}
inner: {{layers: [blocks.26]}}
confounds:
  acquisition: [manufacturer, rows, marker_area]
  anatomical: [density, view, side, age_bin]
"""
OF_RUN = "{encoder}/{layer}/{sae}/seed{seed}"
MAIN = "tuned/head/topk/seed0"
INNER = "tuned/blocks.26/topk/seed0"
# Step -> a file that it writes. The steps of the first group analyse one SAE. Those of the second
# compare it with another seed or encoder, those of the third show all SAEs. Before each of these
# two groups the tables that it needs of the other SAEs are copied, see `fill`.
FIRST = {
    "linear_probe": "heads/base/head.json",
    "evaluate_encoder": "heads/tuned/scores.parquet",
    "latents": f"analysis/{MAIN}/latents.parquet",
    "probes": f"analysis/{MAIN}/probes.parquet",
    "alignment": f"analysis/{MAIN}/alignment.parquet",
    "confounds": f"analysis/{MAIN}/confounds.parquet",
    "replication": f"analysis/{MAIN}/replication.parquet",
    "interventions": f"analysis/{MAIN}/interventions.parquet",
    "effects": f"analysis/{MAIN}/effects.parquet",
    "absorption": f"analysis/{MAIN}/absorption.parquet",
    "ablation": f"analysis/{MAIN}/ablation.parquet",
    "reliance": f"analysis/{MAIN}/reliance.parquet",
    "saliency": "analysis/tuned/head/saliency.parquet",
    "figure_latents": f"figures/latents/{MAIN}/mass.png",
    "figure_confounds": f"figures/confounds/{MAIN}/mass.png",
    "figure_interventions": f"figures/interventions/{MAIN}/mass.png",
    "figure_cohort": "figures/cohort.png",
}
SECOND = {
    "sae_stability": "analysis/tuned/head/topk/sae_stability.parquet",
    "verdict_stability": "analysis/tuned/head/topk/verdict_stability.parquet",
    "matched_latents": f"analysis/{MAIN}/matched_latents.parquet",
    "activation_matches": f"analysis/{MAIN}/activation_matches.parquet",
}
THIRD = {
    "table": "tables/latents.parquet",
    "verdicts": "tables/verdicts.parquet",
    "controls": "tables/controls.parquet",
    "summary": "summary.html",
    "figure_encoders": "figures/encoders.png",
    "figure_training": "figures/training/tuned/topk.png",
    "figure_layers": "figures/layers/topk.png",
    "figure_probes": "figures/probes/topk.png",
    "figure_alignment": "figures/alignment/topk.png",
    "figure_sweep": "figures/sweep/topk/mass.png",
    "figure_effects": "figures/effects/topk.png",
    "figure_ablation": "figures/ablation/topk.png",
    "quarantine": "tables/quarantine.csv",
    "registry": "tables/registry.csv",
}
# These read images or embeddings whole, or run a network, and take up to hours on two cores. They
# run only if they are named.
LONG = {
    "measurements": "measurements/0.parquet",
    "sae_quality": f"analysis/{MAIN}/sae_quality.parquet",
    "inner": f"analysis/{INNER}/interventions.parquet",
    "codes": f"codes/{MAIN}.json",
}
ONE_AT_A_TIME = ("--resources", "gpu=1", "turn=1", "--default-resources", "turn=1")
# A job that needs more than it asked for must fail here, so nothing is tried again.
ON_SLURM = (
    *("--profile", str(PROJECT / "profiles" / "slurm"), "--retries", "0", "--jobs", "2"),
    *("--default-resources", "slurm_partition=tests", "--latency-wait", "5"),
)
# Tables of one SAE, of one SAE and its reference, of all seeds of an SAE, and of a layer.
OF_A_RUN = (
    *("latents", "probes", "alignment", "alignment_by_size", "regions", "confounds"),
    *("replication", "verdict_replication", "interventions", "sweep", "effects", "absorption"),
    *("ablation", "reliance", "sae_quality"),
)
OF_A_PAIR = ("activation_matches", "matched_latents")
OF_SEEDS = ("sae_stability", "verdict_stability")
OF_A_LAYER = ("saliency",)


def configuration(images: int, latents: int, results: Path) -> str:
    """Return the configuration of a rehearsal as YAML."""
    return CONFIG.format(images=images, latents=latents, results=results, shards=shards_of(images))


def names(step: str) -> dict[str, str]:
    """Return encoder, layer and SAE of the job of a step that is measured."""
    path = {**FIRST, **LONG, **SECOND, **THIRD}[step]
    layer = "blocks.26" if "blocks.26" in path else "head"
    return {"encoder": "tuned", "layer": layer, "sae": "topk"}


class Rehearsal:
    """A configuration and a folder in which its steps run."""

    def __init__(self, folder: Path, images: int, latents: int, slurm: bool) -> None:
        self.folder = folder
        self.images = images
        self.slurm = slurm
        self.file = folder / f"n{images}h{latents}.yaml"
        self.file.write_text(configuration(images, latents, folder / "results"))
        self.config = load_config(read_yaml(self.file), self.file.name)
        self.results = self.config.folder

    def prepare(self) -> None:
        """Write the results up to the codes, unless an earlier call has written them."""
        done = self.results / ".written"
        if not done.exists():
            templates = self.folder / "templates"
            templates.mkdir(exist_ok=True)
            Results(self.config, self.images, templates).write()
            done.touch()

    def run(self, steps: dict[str, str], cores: int) -> dict[str, dict[str, float]]:
        """Run the jobs of `steps` that make the given files, and return what each measured."""
        if not steps:
            return {}
        with tempfile.TemporaryDirectory() as measures:
            self._snakemake(steps, cores, Path(measures))
            found = [json.loads(file.read_text()) for file in Path(measures).glob("*.json")]
        result: dict[str, dict[str, float]] = {}
        for one in found:
            # `table` has several jobs. Each measure is that of the job with most of it.
            before = result.get(one["step"], {})
            kept = {
                name: max(round(one[name], 1), before.get(name, 0))
                for name in ("seconds", "cpu_seconds", "mib")
            }
            result[one["step"]] = kept
        return result

    def _snakemake(self, steps: dict[str, str], cores: int, measures: Path) -> None:
        # A fresh folder for Snakemake's own records, so that nothing counts as stale.
        with tempfile.TemporaryDirectory(dir=self.folder) as working:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile")),
                    *("--configfile", str(self.file), "--directory", working),
                    *("--cores", str(cores), "--keep-going", "--nolock"),
                    *(ON_SLURM if self.slurm else ONE_AT_A_TIME),
                    *("--rerun-triggers", "mtime", "--allowed-rules", *steps),
                    *("--forcerun", *steps, "--"),
                    *(str(self.results / path) for path in steps.values()),
                ],
                env={
                    **os.environ,
                    "MEASURES": str(measures),
                    "PYTHONPATH": os.pathsep.join(
                        (str(PROJECT / "benchmarks" / "measuring"), str(PROJECT / "src"))
                    ),
                },
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            print((done.stdout + done.stderr)[-4000:], file=sys.stderr)

    def fill(self) -> None:
        """Copy the tables of the analysed SAE for the other SAEs, with their names."""
        heads = self.results / "heads"
        for name in ("predictions", "scores"):
            source = heads / "tuned" / f"{name}.parquet"
            if source.exists():
                table = read_table(source)
                if "encoder" in table:
                    table["encoder"] = "base"
                write_table(table, heads / "base" / f"{name}.parquet")
        for encoder in self.config.encoders:
            for layer in self.config.layers:
                for name in OF_A_LAYER:
                    self._copy(f"{{encoder}}/{{layer}}/{name}", encoder, layer)
                for name in OF_SEEDS:
                    self._copy(f"{{encoder}}/{{layer}}/{{sae}}/{name}", encoder, layer)
                for seed in (0, 1):
                    for name in OF_A_RUN:
                        self._copy(f"{OF_RUN}/{name}", encoder, layer, seed=seed)
            for name in OF_A_RUN:
                self._copy(f"{OF_RUN}/{name}", encoder, "head", "control")
        for layer, seed in itertools.product(self.config.layers, (0, 1)):
            for name in OF_A_PAIR:
                self._copy(f"{OF_RUN}/{name}", "tuned", layer, seed=seed)

    def _copy(self, form: str, encoder: str, layer: str, sae: str = "topk", seed: int = 0) -> None:
        """Copy the table of the analysed SAE, unless this one was measured itself."""
        analysis = self.results / "analysis"
        main = {"encoder": "tuned", "layer": "head", "sae": "topk", "seed": 0}
        this = {"encoder": encoder, "layer": layer, "sae": sae, "seed": seed}
        source = analysis / f"{form.format(**main)}.parquet"
        target = analysis / f"{form.format(**this)}.parquet"
        inner = this == {**main, "layer": "blocks.26"}
        if source == target or not source.exists() or (inner and target.exists()):
            return
        table = read_table(source)
        table = table.assign(**{name: this[name] for name in this if name in table})
        if layer != "head" and "latent" in table:
            table = table[table["latent"] < 1408]
        write_table(table, target)


def growth(small: tuple[int, float], large: tuple[int, float]) -> float:
    """Return p of y ~ n^p through two pairs (n, y)."""
    return math.log(large[1] / small[1]) / math.log(large[0] / small[0])


def extrapolated(small: tuple[int, float], large: tuple[int, float], n: int) -> float:
    """Return the value at n of the line through two pairs, at least that of the larger one."""
    slope = (large[1] - small[1]) / (large[0] - small[0])
    return max(large[1], large[1] + slope * (n - large[0]))


def summary(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row per step: processor time and memory for each number of images, and the request.

    `rows` are measures of one number of latents, as `write_measures` writes them. The request is
    that of the largest number of images. From the two largest ones follow growth and extrapolation.
    """
    sizes = sorted({row["images"] for row in rows})
    latents = rows[0]["latents"]
    found = {(row["images"], row["step"]): row for row in rows}
    text = configuration(sizes[-1], latents, Path("results"))
    config = load_config(yaml.safe_load(text), "rehearsal")
    table = []
    for step in sorted({row["step"] for row in rows}):
        line: dict[str, Any] = {"step": f"`{step}`"}
        for images in sizes:
            one = found.get((images, step), {})
            line[f"CPU s, {images:,}"] = one.get("cpu_seconds", math.nan)
            line[f"MiB, {images:,}"] = one.get("mib", math.nan)
        needed = need(config, sizes[-1], step, **names(step))
        line |= {"asked MB": needed.mem_mb, "asked min": needed.minutes}
        if len(sizes) > 1 and all((images, step) in found for images in sizes[-2:]):
            for name, key in (("CPU", "cpu_seconds"), ("MiB", "mib")):
                pairs = [(images, found[images, step][key]) for images in sizes[-2:]]
                line[f"{name} ~ n^"] = growth(*pairs)
                line[f"{name} at EMBED"] = extrapolated(*pairs, EMBED)
        table.append(line)
    return pd.DataFrame(table)


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown."""

    def shown(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return "" if math.isnan(value) else f"{value:,.{2 if abs(value) < 10 else 0}f}"

    rows = [list(table.columns), ["---"] * len(table.columns)]
    rows += [[shown(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def measures_of(
    latents: int, measured: dict[int, dict[str, dict[str, float]]]
) -> list[dict[str, Any]]:
    """Return an object per number of images and step."""
    return [
        {"images": images, "latents": latents, "step": step}
        | {name: row[name] for name in ("seconds", "cpu_seconds", "mib")}
        for images, steps in measured.items()
        for step, row in sorted(steps.items())
    ]


def write_measures(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the measures as a JSON list, one to a line."""
    path.write_text("[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--latents", type=int, default=16384, help="latents at the head layer")
    parser.add_argument("--steps", nargs="+", choices=sorted({**FIRST, **SECOND, **THIRD, **LONG}))
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument(
        "--keep", type=Path, help="folder for the results, which later calls use again; default: "
        "a temporary folder",
    )  # fmt: skip
    parser.add_argument(
        "--slurm", action="store_true", help="run each job on the SLURM of tests/workflow/slurm.sh"
    )
    parser.add_argument("--output", type=Path, help="JSON file of all measures")
    options = parser.parse_args()
    wanted = options.steps or [*FIRST, *SECOND, *THIRD]
    folder = (options.keep or Path(tempfile.mkdtemp(dir=PROJECT))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    measured: dict[int, dict[str, dict[str, float]]] = {}
    try:
        for images in sorted(options.images):
            rehearsal = Rehearsal(folder, images, options.latents, options.slurm)
            rehearsal.prepare()
            found: dict[str, dict[str, float]] = {}
            for group in (FIRST, LONG, SECOND, THIRD):
                chosen = {step: path for step, path in group.items() if step in wanted}
                if not (rehearsal.results / LONG["sae_quality"]).exists():
                    chosen.pop("figure_layers", None)  # it shows the table of this step
                if group in (SECOND, THIRD) and chosen:
                    rehearsal.fill()
                found |= rehearsal.run(chosen, options.cores)
            measured[images] = found
            missing = [step for step in wanted if step not in found]
            if missing:
                print(f"{images} images: without a measure: {', '.join(missing)}", file=sys.stderr)
            rows = measures_of(options.latents, measured)
            if rows:
                print(markdown(summary(rows)), flush=True)
            if options.output:
                write_measures(options.output, rows)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
