"""The atlas of a small run in real files: six images, three latents, one concept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mammo_sae.atlas import build
from mammo_sae.atlas.settings import AtlasSettings
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.grids import LayerGrid
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import POOLED, create_codes_store
from mammo_sae.stores.images import ImageRecord, create_image_store
from mammo_sae.stores.tables import write_table

GRID = LayerGrid("head", 4, 3, 2, 8, 0.0, 0.0, 8)
HEIGHT, WIDTH = 24, 16
CONCEPT = "masse<ä>"
IDS = [f"{i:016x}" for i in range(6)]
# Activation of latents 0, 1 and 2 in cell (0, 0) of the six images. Latent 2 is dead.
ACTIVATION = np.array([[4.0, 0], [3, 1], [2, 0], [0, 2], [0, 3], [0, 0]])


def write_stores(
    root: Path, *, poor: bool = False, activation: np.ndarray = ACTIVATION
) -> list[str]:
    """Write the stores, and return the ids of the images.

    The stores of a poor run have no region, and all latents are dead.
    """
    regions = [] if poor else [CONCEPT]
    activation = 0 * activation if poor else activation
    ids = [f"{i:016x}" for i in range(len(activation))]
    with create_image_store(
        root / "images" / "0.zarr", root / "images" / "0.json", image_ids=ids, height=HEIGHT,
        width=WIDTH, regions=regions,
    ) as writer:  # fmt: skip
        for i in range(len(ids)):
            mask = np.zeros((len(regions), HEIGHT, WIDTH), np.uint8)
            mask[:, 2:5, 3:9] = i < 3
            pixels = np.full((HEIGHT, WIDTH), 40 * i % 256, np.uint8)
            breast = np.ones((HEIGHT, WIDTH), np.uint8)
            record = ImageRecord(pixels, breast, mask, np.eye(2, 3), False, 0.1, {})
            writer.write(i, record)
    folder = root / "codes" / "finetuned" / "head" / "topk"
    folder.mkdir(parents=True)
    index = np.zeros((len(ids), 3, 2, 2), np.int32)
    value = np.zeros((len(ids), 3, 2, 2), np.float32)
    index[:, 0, 0] = [0, 1]
    value[:, 0, 0] = activation
    highest = np.pad(activation, ((0, 0), (0, 1))).astype(np.float32)
    pooled = {name: highest / (6 if "mean" in name else 1) for name in POOLED}
    with create_codes_store(
        folder / "seed0.zarr", folder / "seed0.json", image_ids=ids, grid=GRID, latents=3, k=2
    ) as writer:
        writer.write(range(len(ids)), index, value, pooled)
    sae = root / "sae" / "finetuned" / "head" / "topk" / "seed0"
    sae.mkdir(parents=True)
    atoms = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    SparseAutoencoder(atoms.clone(), torch.zeros(3), atoms, torch.tensor([0.5, 0.0]), k=2).save(
        sae / "sae.safetensors", sae / "sae.json"
    )
    head = root / "heads" / "finetuned"
    head.mkdir(parents=True)
    weight, bias = np.array([[6.0, 0.0]], np.float32), np.ones(1, np.float32)
    save_head(Head(weight, bias, (CONCEPT,)), head / "head.safetensors", head / "head.json")
    logits = pd.DataFrame({"image_id": ids, "concept": CONCEPT, "logit": 10.0})
    write_table(logits, head / "predictions.parquet")
    return ids


def write_tables(root: Path, *, poor: bool = False) -> None:
    """Write the tables. In a poor run no latent fires, and none was tested for confounders."""
    key = {"encoder": "finetuned", "layer": "head", "sae": "topk", "seed": 0}
    latents = pd.DataFrame(
        [
            {**key, "latent": i, "concept": CONCEPT, "firing_rate": rate, "score": "max",
             "rank_auroc": rank, "discovery_auroc": 0.9, "auroc": 0.9, "auroc_low": 0.8,
             "auroc_high": 1.0, "q": 0.001, "mean_positive": 1.0, "mean_negative": 0.0,
             "reason": ""}
            for i, (rate, rank) in enumerate([(0.5, 1), (0.4, 2), (0.0, 3)])
        ]
    )  # fmt: skip
    verdicts = pd.DataFrame(
        [
            {**key, "concept": CONCEPT, "latent": 0, "rank_auroc": 1, "auroc": 0.9,
             "auroc_low": 0.8, "auroc_high": 1.0, "q": 0.0001, "verdict": "confounded",
             "confounders": "marker", "discriminates": "", "where": "off the lesion",
             "energy_lift": 0.2, "pointing": 0.1, "reason": "a </script> of text"}
        ]
    )  # fmt: skip
    none = pd.DataFrame({name: [] for name in (*key, "concept", "latent")})
    if poor:
        unknown = dict.fromkeys(("auroc", "auroc_low", "auroc_high", "q"), np.nan)
        latents = latents.assign(firing_rate=0.0, reason="no latent fires", **unknown)
        latents["rank_auroc"] = pd.array([pd.NA] * len(latents), "Int64")
        verdicts = verdicts.head(0)
    write_table(latents, root / "tables" / "latents.parquet")
    write_table(verdicts, root / "tables" / "verdicts.parquet")
    effects = latents[[*key, "concept", "latent"]].assign(split="test", effect=0.5, rank_causal=1)
    if not poor:
        write_table(effects, root / "tables" / "effects.parquet")
    for name in ("confounds", "sae_quality", "encoders"):
        write_table(none, root / "tables" / f"{name}.parquet")
    write_table(none.assign(energy_lift=[]), root / "tables" / "alignment.parquet")
    registry = {"encoder": "finetuned", "licence": "MIT", "sha256": "ab12"}
    write_table(pd.DataFrame([registry]), root / "registry.csv")
    images = pd.DataFrame(
        {"image_id": IDS, "patient_id": [f"p{i}" for i in range(6)], "split": "test",
         "view": "CC", "side": "L", CONCEPT: pd.array([1, 1, 1, 0, 0, pd.NA], dtype="Int8"),
         "secret_path": "/hospital/Müller.dcm"}
    )  # fmt: skip
    write_table(images, root / "cohort" / "images.parquet")


NAME = "a dense mass & <script>alert('ö')</script>"
WITHOUT = "ohne Befund"  # a concept without a positive image


def write_run(root: Path, *, poor: bool = False, more: bool = False) -> Path:
    """Write the stores and tables of a run, with `more` those of `write_more`; return `root`."""
    write_stores(root, poor=poor)
    write_tables(root, poor=poor)
    if more:
        write_more(root)
    return root


def write_more(root: Path) -> None:
    """Add what not every run has: names, partners, quality, controls, a concept without positives.

    The reference of the partners is the encoder itself, so that both directions are there.
    """
    tables = root / "tables"
    key = {"encoder": "finetuned", "layer": "head", "sae": "topk", "seed": 0}
    latents = pd.read_parquet(tables / "latents.parquet")
    unknown = dict.fromkeys(("auroc", "auroc_low", "auroc_high", "q", "discovery_auroc"), np.nan)
    none = latents.assign(concept=WITHOUT, reason="no positive image", **unknown)
    none["rank_auroc"] = pd.array([pd.NA] * len(none), "Int64")
    none[["mean_positive", "mean_negative"]] = np.nan
    write_table(pd.concat([latents, none], ignore_index=True), tables / "latents.parquet")
    images = pd.read_parquet(root / "cohort" / "images.parquet")
    zeros = pd.array([0] * len(images), dtype="Int8")
    write_table(images.assign(**{WITHOUT: zeros}), root / "cohort" / "images.parquet")
    names = pd.DataFrame(
        [
            {**key, "latent": i, "name": name, "agreement": "concept" if name else "",
             "best": NAME, "score": 2.0, "runner_up": "a marker", "runner_up_score": 1.5,
             "decoy": "a dog", "decoy_score": 1.0, "label": CONCEPT, "cosine": 0.4,
             "chance_cosine": 0.1, "auroc": 0.8, "auroc_low": 0.7, "auroc_high": 0.9, "q": 0.01,
             "reason": "" if name else "not significant"}
            for i, name in enumerate([NAME, "", ""])
        ]
    )  # fmt: skip
    write_table(names, tables / "names.parquet")
    partners = pd.DataFrame(
        [
            {**key, "latent": i, "reference": "finetuned", "match": match, "correlation": 0.9,
             "discovery_correlation": 0.8, "chance": 0.3, "matched": True, "reason": ""}
            for i, match in ((0, 1), (2, None))
        ]
    )  # fmt: skip
    partners["match"] = partners["match"].astype("Int32")
    write_table(partners, tables / "activation_matches.parquet")
    quality = {
        **key, "explained_variance": 0.75, "explained_variance_pca": 0.5,
        "explained_variance_channels": 0.25, "l0": 2.0, "latents": 3, "dead_share": 1 / 3,
        f"auroc_lost_{CONCEPT}": 0.02, f"auroc_lost_{CONCEPT}_low": -0.01,
        f"auroc_lost_{CONCEPT}_high": 0.05,
    }  # fmt: skip
    write_table(pd.DataFrame([quality]), tables / "sae_quality.parquet")
    control = {
        "encoder": "finetuned", "layer": "head", "concept": CONCEPT, "trained": "topk",
        "control": "untrained", "measure": "auroc_best", "split": "test", "trained_value": 0.9,
        "trained_low": 0.8, "trained_high": 0.95, "control_value": 0.6, "control_low": 0.5,
        "control_high": 0.7, "difference": 0.3, "difference_low": 0.2, "difference_high": 0.4,
        "outcome": "wins", "reason": "",
    }  # fmt: skip
    other = {**control, "layer": "blocks.10", "outcome": "of another layer"}
    write_table(pd.DataFrame([control, other]), tables / "controls.parquet")


def other_files(root: Path) -> dict[str, list[Path]]:
    return {
        "saes": [root / "sae" / "finetuned" / "head" / "topk" / "seed0" / "sae.json"],
        "heads": [root / "heads" / "finetuned" / "head.json"],
        "logits": [root / "heads" / "finetuned" / "predictions.parquet"],
    }


def make_atlas(root: Path, out: Path, **settings: object) -> Path:
    build.run(
        AtlasSettings(**{"examples": 2, **settings}),
        images=root / "cohort" / "images.parquet",
        image_stores=[root / "images" / "0.json"],
        codes=[root / "codes" / "finetuned" / "head" / "topk" / "seed0.json"],
        **other_files(root),
        tables=sorted((root / "tables").glob("*.parquet")),
        registry=root / "registry.csv",
        content=json.dumps({"name": "<run>"}),
        split="test",
        store=out,
        manifest=out.with_suffix(".json"),
    )
    return out
