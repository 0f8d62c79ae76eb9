"""A small run of the phantom, made by the steps themselves in the test's process.

It has the files that the Python API and the export read: images, encoders, heads, SAEs, codes and
tables of a fine-tuned encoder at two layers, each with its record.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mammo_sae import cli
from mammo_sae.config import PARTS, Config, load_config
from mammo_sae.steps import STEPS

TOPK = {"name": "topk", "k": 4, "k_aux": 8}
CHANNELS = {"name": "channels", "k": 4}
SMALL = {
    "name": "phantom",
    "cohort": {"kind": "phantom", "shards": 2},
    "phantom": {
        "height": 96,
        "width": 64,
        "patients": {"training": 24, "test": 24, "external": 4, "pairs": 3},
    },
    "images": {"preprocessing": "clinical", "height": 96, "width": 64},
    "encoders": {
        "pretrained": {"kind": "pretrained"},
        "finetuned": {
            "kind": "finetuned",
            "base": "pretrained",
            "freeze": "blocks.4",
            "recipe": {"kind": "fast", "epochs": 1},
        },
    },
    "layers": ["blocks.10", "head"],
    "saes": {
        "topk": {"variant": TOPK, "latents": 64, "steps": 20, "batch": 64, "layers": {}},
        "channels": {"variant": CHANNELS, "latents": 64, "only": {"layers": ["head"]}},
    },
    "evaluation": {"bootstrap_draws": 20},
    "sae_quality": {"bootstrap_draws": 20},
    "latents": {"bootstrap_draws": 20, "permutation_draws": 99},
    "alignment": {"bootstrap_draws": 20, "permutation_draws": 99, "top_latents": 5},
    "confounds": {"bootstrap_draws": 20, "permutation_draws": 99, "top_latents": 5},
}
SHARDS = range(2)
# The SAEs of the run. The last one is a control.
SAES = (("blocks.10", "topk"), ("head", "topk"), ("head", "channels"))


class Steps:
    """Runs steps as the command line does.

    Parameters
    ----------
    results
        Folder of all runs.
    """

    def __init__(self, results: Path) -> None:
        self.config: Config = load_config({**SMALL, "results": str(results)}, "small")
        self.root = Path(self.config.folder)

    def __call__(self, step: str, wildcards: dict[str, str] | None = None, **options: Any) -> None:
        words = []
        if STEPS[step].settings is not None:
            words += ["--settings", self.config.slice(step, wildcards or {})]
        for name, value in options.items():
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
        cli.run([step.replace("_", "-"), *words])

    def shards(self, folder: str) -> list[Path]:
        """Return the manifests of all shards in a folder of the run."""
        return [self.root / folder / f"{shard}.json" for shard in SHARDS]


def write_run(results: Path) -> Path:
    """Write the run below `results` and return its folder."""
    steps = Steps(results)
    _cohort(steps)
    _encoders(steps)
    for layer, sae in SAES:
        _sae(steps, layer, sae)
    _tables(steps)
    return steps.root


def _cohort(steps: Steps) -> None:
    root, sources = steps.root, steps.config.sources()
    for part in PARTS:
        at = root / "source" / part
        steps("phantom", {"part": part}, archive=at, manifest=at.with_name(f"{part}.json"))
    cohort = root / "cohort"
    steps(
        "cohort", images=cohort / "images.parquet", findings=cohort / "findings.parquet",
        summary=cohort / "summary.json", sources=sources,
    )  # fmt: skip
    steps("splits", output=cohort / "splits.parquet", sources=sources)
    for shard in SHARDS:
        store = root / "images" / f"{shard}.zarr"
        steps(
            "images", shard=shard, store=store, manifest=store.with_suffix(".json"),
            sources=sources,
        )  # fmt: skip
        steps(
            "measurements", image_stores=store.with_suffix(".json"),
            output=root / "measurements" / f"{shard}.parquet",
        )  # fmt: skip


def _encoders(steps: Steps) -> None:
    root = steps.root
    base, tuned = root / "encoders" / "pretrained", root / "encoders" / "finetuned"
    images = root / "cohort" / "images.parquet"
    concepts = list(steps.config.cohort.concepts)

    def files(folder: Path, kind: str, name: str = "") -> dict[str, Path]:
        return {
            f"{name}weights": folder / f"{kind}.safetensors",
            f"{name}description": folder / f"{kind}.json",
        }

    def extract(encoder: str, layers: list[str], base_embeddings: str | None = None) -> str:
        folder = f"embeddings/{encoder}/{'+'.join(layers)}"
        for shard in SHARDS:
            store = root / folder / str(shard)
            given = {} if base_embeddings is None else {
                "base_embeddings": root / base_embeddings / f"{shard}.json"
            }  # fmt: skip
            steps(
                "extract", encoder=root / "encoders" / encoder, layers=layers, store=store,
                image_store=root / "images" / f"{shard}.json",
                manifest=store.with_name(f"{shard}.json"), **given,
            )  # fmt: skip
        return folder

    steps("import_encoder", {"encoder": "pretrained"}, **files(base, "encoder"))
    frozen = extract("pretrained", ["blocks.4", "pooled"])
    steps(
        "linear_probe", concepts=concepts, images=images, encoder=base,
        embeddings=steps.shards(frozen), **files(root / "heads" / "pretrained", "head", "head_"),
    )  # fmt: skip
    steps(
        "finetune", {"encoder": "finetuned"}, concepts=concepts, images=images, base=base,
        base_head=root / "heads" / "pretrained", embeddings=steps.shards(frozen),
        **files(tuned, "encoder"), **files(root / "heads" / "finetuned", "head", "head_"),
        history=tuned / "history.csv",
    )  # fmt: skip
    made = extract("finetuned", ["blocks.10", "head", "pooled"], frozen)
    heads = root / "heads" / "finetuned"
    steps(
        "evaluate_encoder", encoder_name="finetuned", images=images, head=heads,
        embeddings=steps.shards(made), predictions=heads / "predictions.parquet",
        scores=heads / "scores.parquet",
    )  # fmt: skip


def _sae(steps: Steps, layer: str, sae: str) -> None:
    root = steps.root
    below = Path("finetuned", layer, sae, "seed0")
    at, codes = root / "sae" / below, root / "codes" / below.parent / "seed0.json"
    embeddings = steps.shards("embeddings/finetuned/blocks.10+head+pooled")
    image_stores = steps.shards("images")
    wildcards = {"encoder": "finetuned", "layer": layer, "sae": sae, "seed": "0"}
    steps(
        "train_sae", wildcards, layer=layer, splits=root / "cohort" / "splits.parquet",
        embeddings=embeddings, weights=at / "sae.safetensors", description=at / "sae.json",
        history=at / "history.csv",
    )  # fmt: skip
    steps(
        "codes", sae=at / "sae.json", layer=layer, embeddings=embeddings,
        image_stores=image_stores, store=codes.with_suffix(".zarr"), manifest=codes,
    )  # fmt: skip
    analysis = root / "analysis" / below
    common = {
        "identity": ["finetuned", layer, sae, "0"],
        "images": root / "cohort" / "images.parquet",
        "codes": codes,
    }
    concepts = list(steps.config.cohort.concepts)
    table = {name: analysis / f"{name}.parquet" for name in ("latents", "alignment", "confounds")}
    steps(
        "sae_quality", sae=at / "sae.json", **common, embeddings=embeddings,
        encoder=root / "encoders" / "finetuned", head=root / "heads" / "finetuned",
        output=analysis / "sae_quality.parquet",
    )  # fmt: skip
    steps("latents", **common, concepts=concepts, output=table["latents"])
    both = {**common, "concepts": concepts, "latents": table["latents"]}
    steps(
        "alignment", **both, image_stores=image_stores, output=table["alignment"],
        by_size=analysis / "alignment_by_size.parquet", regions=analysis / "regions.parquet",
    )  # fmt: skip
    steps(
        "confounds", **both, image_stores=image_stores, output=table["confounds"],
        measurements=[root / "measurements" / f"{shard}.parquet" for shard in SHARDS],
    )  # fmt: skip


def _tables(steps: Steps) -> None:
    root = steps.root
    for name in ("latents", "sae_quality", "alignment", "confounds"):
        parts = [
            root / "analysis" / "finetuned" / layer / sae / "seed0" / f"{name}.parquet"
            for layer, sae in SAES
        ]
        to = root / "tables" / f"{name}.csv"
        steps("table", parts=parts, csv=to, parquet=to.with_suffix(".parquet"))
    table = root / "tables" / "verdicts.csv"
    steps(
        "verdicts", csv=table, parquet=table.with_suffix(".parquet"),
        **{name: root / "tables" / f"{name}.parquet"
           for name in ("latents", "alignment", "confounds")},
    )  # fmt: skip
    names = ("pretrained", "finetuned")
    descriptions = [root / "encoders" / name / "encoder.json" for name in names]
    steps("registry", descriptions=descriptions, output=root / "tables" / "registry.csv")
