"""What a run will need: jobs, time, memory and disk of every stage, before the first job."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from mammo_sae.cohorts.settings import PhantomCohort
from mammo_sae.config import PARTS, Config
from mammo_sae.encoders.plans.plan import HEAD
from mammo_sae.encoders.settings import FinetunedSettings
from mammo_sae.provenance import SUFFIX
from mammo_sae.resources import MIB, NEEDS, Size, cohort_images
from mammo_sae.stores.publish import read_json

GB = 1e9
# Stages in the order of the data flow, with their steps.
STAGES = {
    "cohort": ("phantom", "cohort", "splits"),
    "images": ("images", "pairs", "measurements"),
    "encoders": ("import_encoder", "finetune", "linear_probe", "evaluate_encoder"),
    "embeddings": ("extract",),
    "SAEs": ("train_sae", "codes", "sae_quality", "sae_stability"),
    "latents": (
        "latents",
        "probes",
        "alignment",
        "saliency",
        "confounds",
        "embed_phrases",
        "naming",
        "replication",
        "verdict_stability",
    ),
    "interventions": (
        *("interventions", "classes", "effects", "inner", "matched_latents", "activation_matches"),
        *("ablation", "inner_ablation", "reliance", "absorption"),
    ),
    "ground truth": ("responses", "logit_responses", "truth"),
}
# Bytes on disk per byte before compression, measured on results of the phantom and of
# benchmarks/rehearsal.py.
PIXELS, MASK, INDEX, POOLED = 0.6, 0.02, 0.83, 0.33


@dataclass
class Stage:
    """A stage of a run.

    Attributes
    ----------
    jobs
        Number of jobs.
    hours
        Time of all jobs, one after the other.
    mem_mb
        The most memory that one of its jobs asks for, in MB.
    bytes
        Disk that its results need.
    """

    jobs: int = 0
    hours: float = 0.0
    mem_mb: int = 0
    bytes: float = 0.0


def count_images(config: Config) -> int:
    """Return the number of images of a run: of the cohort's table, or else of its archive.

    Raises
    ------
    InputError
        If there is no table and the archive is missing or can't be read.
    """
    images = cohort_images(config)
    if images is None:
        from mammo_sae.cohorts.pseudonyms import load_pseudonyms
        from mammo_sae.cohorts.readers import Sources

        opened = Sources(config.cohort.kind, [Path(source) for source in config.sources()])
        images = len(opened.files(load_pseudonyms(config.cohort.key_file)))
    return images


def jobs(config: Config) -> Iterator[tuple[str, int, dict[str, str]]]:
    """Yield step, number of jobs, and encoder, layer and SAE of all jobs of a run.

    Tables, figures and pages are left out. They are one job on SLURM.
    """
    phantom = isinstance(config.cohort, PhantomCohort)
    for step in ("cohort", "splits"):
        yield step, 1, {}
    for step in ("images", *(["measurements"] if config.cohort.concepts else [])):
        yield step, config.shards, {}
    if config.text is not None:
        yield "embed_phrases", 1, {}
    if phantom:
        yield "phantom", len(PARTS), {}
        yield "pairs", 1, {}
    for encoder, settings in config.encoders.items():
        finetuned = isinstance(settings, FinetunedSettings)
        steps = ["finetune"] if finetuned else ["import_encoder", "linear_probe"]
        steps += ["evaluate_encoder", *(["logit_responses"] if phantom else [])]
        for step in steps if config.cohort.concepts else steps[:1]:
            yield step, 1, {"encoder": encoder}
        yield "extract", config.shards + phantom, {"encoder": encoder}
        for layer in config.layers if config.cohort.concepts else ():
            yield "saliency", 1, {"encoder": encoder, "layer": layer}
    for (encoder, layer), (sae, several) in product(
        product(config.encoders, config.layers), config.saes.items()
    ):
        if several.covers(encoder, layer):
            seeds = len(several.seeds)
            names = {"encoder": encoder, "layer": layer, "sae": sae}
            for step in _steps_of_sae(config, encoder, layer, sae):
                yield step, seeds, names
            for step in ("sae_stability", "verdict_stability") if seeds > 1 else ():
                yield step, 1, names


def _steps_of_sae(config: Config, encoder: str, layer: str, sae: str) -> list[str]:
    explained = f"{layer}/{sae}" not in config.controls()
    if not config.cohort.concepts:
        return ["train_sae", "codes"]
    steps = ["train_sae", "codes", "sae_quality", "latents", "probes", "alignment", "confounds"]
    if config.replication.splits:
        steps.append("replication")
    if isinstance(config.cohort, PhantomCohort) and explained:
        steps += ["codes", "responses", "truth"]
    if config.text is not None:
        steps.append("naming")
    if explained and config.reference({"encoder": encoder, "layer": layer, "sae": sae}):
        steps.append("activation_matches")
    if config.is_linear(encoder, layer):
        steps += ["interventions", *(["classes"] if config.density_classes else [])]
        steps += ["effects", "ablation", "reliance", "absorption"] if explained else []
    if config.is_rerun(encoder, layer):
        steps += ["inner", *(["inner_ablation"] if explained else [])]
    if layer == HEAD:
        base = config.encoders[encoder].base
        if explained and base is not None and config.saes[sae].covers(base, layer):
            steps.append("matched_latents")
    return steps


def disk(step: str, size: Size) -> float:
    """Return the bytes on disk of a job's results, about. Small results count as nothing."""
    if step == "images":
        return size.shard * size.pixels * (PIXELS + MASK)
    if step == "extract":
        layers = [replace(size, layer=of) for of in size.config.extracted_layers(size.encoder)]
        return size.shard * sum(2.0 * layer.cells * layer.channels for layer in layers)
    if step == "train_sae":
        return size.weights * MIB
    if step == "codes":
        cells = size.cells * size.codes * (4 + 2 * INDEX)
        return size.images * (cells + size.latents * 6 * 4 * POOLED)
    return 0.0


def plan(config: Config, images: int) -> dict[str, Stage]:
    """Return stage -> what it needs, for a cohort of `images` images."""
    stage_of = {step: name for name, steps in STAGES.items() for step in steps}
    stages: dict[str, Stage] = {name: Stage() for name in STAGES}
    first = next(iter(config.encoders))
    for step, count, names in jobs(config):
        stage = stages[stage_of[step]]
        encoder = names.get("encoder", first)
        size = Size(config, images, encoder, names.get("layer"), names.get("sae"))
        needed = NEEDS[step](size)
        stage.jobs += count
        stage.hours += count * needed.seconds / 3600
        stage.mem_mb = max(stage.mem_mb, needed.mem_mb)
        stage.bytes += count * disk(step, size)
    return {name: stage for name, stage in stages.items() if stage.jobs}


def written(folder: Path) -> int:
    """Return the bytes of the stores that a run has already written, by their manifests."""
    places = ("images/*.json", "embeddings/*/*/*.json", "codes/*/*/*/*.json")
    manifests = [path for place in places for path in folder.glob(place)]
    # A record of a job is beside the manifest of its store.
    return sum(read_json(path)["bytes"] for path in manifests if not path.name.endswith(SUFFIX))


def lines(config: Config, images: int) -> list[str]:
    """Return the plan as lines of text; the last one says whether the disk is large enough."""
    stages = plan(config, images)
    rows = [("stage", "jobs", "hours", "memory MB", "disk GB")]
    for name, stage in stages.items():
        rows.append(
            (
                name,
                f"{stage.jobs:,}",
                f"{stage.hours:,.1f}",
                f"{stage.mem_mb:,}",
                f"{stage.bytes / GB:,.1f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = [
        "  ".join(cell.ljust(w) if c == 0 else cell.rjust(w) for c, (cell, w) in enumerate(line))
        for line in (zip(row, widths, strict=True) for row in rows)
    ]
    needed = sum(stage.bytes for stage in stages.values())
    there = written(config.folder)
    place = next(path for path in (config.folder, *config.folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    lacking = needed - there - free
    text.append(
        f"{images:,} images. The results need {needed / GB:,.1f} GB, of which {there / GB:,.1f} GB "
        f"are written; {place} has {free / GB:,.1f} GB free."
    )
    text.append(
        f"The disk lacks {lacking / GB:,.1f} GB: free space, or extract fewer layers."
        if lacking > 0
        else "The disk is large enough."
    )
    return text
