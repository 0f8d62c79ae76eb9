"""A small cohort in real stores, with latents whose meaning is known by construction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo_sae.analysis.cases import Identity
from mammo_sae.grids import LayerGrid
from mammo_sae.stores.codes import create_codes_store
from mammo_sae.stores.images import ImageRecord, create_image_store
from mammo_sae.stores.tables import write_table

HEIGHT, WIDTH, STRIDE = 96, 64, 8
GRID = LayerGrid(
    layer="head",
    channels=4,
    rows=12,
    columns=8,
    stride=STRIDE,
    offset_y=0.0,
    offset_x=0.0,
    receptive_field=31,
)
PATIENTS = {"training": 160, "test": 240, "external": 100}
LATENTS = (
    "clean",  # fires on the lesion
    "marker",  # fires on the marker, in the image's corner
    "vendor",  # fires everywhere in the images of one vendor
    "displaced",  # fires one cell beside the lesion
    "paddle",  # fires on the paddle's edge, which is not associated with the concept
    "tissue",  # fires everywhere in every breast
    "noise",
    "dead",
    *(f"noise{i}" for i in range(24)),
)


@dataclass(frozen=True)
class World:
    """Paths of one synthetic run and the arrays behind it."""

    images: Path
    image_stores: list[Path]
    measurements: list[Path]
    codes: Path
    table: pd.DataFrame
    dense: np.ndarray
    lesion: np.ndarray  # row and column of each image's lesion, [n, 2]
    grid: LayerGrid
    identity: Identity

    def latent(self, name: str) -> int:
        return LATENTS.index(name)


def draw_cohort(rng: np.random.Generator) -> pd.DataFrame:
    """Two views per patient; marker (odds ratio 8) and vendor (12) are associated with mass."""
    rows, number = [], 0
    for split, count in PATIENTS.items():
        planted = 0.0 if split == "external" else 1.0
        for _ in range(count):
            mass = int(rng.random() < 0.4)

            strength = planted * (mass - 0.4)
            marker, vendor, paddle = (
                int(rng.random() < 1 / (1 + np.exp(-logit)))
                for logit in (-0.8 + np.log(8) * strength, np.log(12) * strength, -0.8)
            )
            density = "ABCD"[rng.integers(4)]
            for view in ("CC", "MLO"):
                rows.append(
                    {
                        "image_id": f"{number:016x}",
                        "patient_id": f"{number // 2:016x}",
                        "split": split,
                        "shard": 0,
                        "view": view,
                        "side": "L",
                        "mass": mass,
                        "suspicious_calcification": 0,
                        "density": density,
                        "manufacturer": "Beta" if vendor else "Alpha",
                        "marker": marker,
                        "paddle": paddle,
                        "rows": 400 + int(rng.integers(0, 300)),
                        "columns": 256,
                        "birads": 1,
                        "age_bin": "50-59",
                        "model": "one",
                        "pixel_spacing_mm": 0.1,
                    }
                )
                number += 1
    table = pd.DataFrame(rows)
    for name in ("mass", "suspicious_calcification"):
        table[name] = table[name].astype("Int8")
    return table


def draw_measurements(rng: np.random.Generator, table: pd.DataFrame) -> pd.DataFrame:
    """Most markers are measured, the noise says nothing, and no edge could be measured."""
    marker, n = table["marker"].to_numpy(), len(table)
    return pd.DataFrame(
        {
            "image_id": table["image_id"],
            "marker_area": marker * (rng.random(n) > 0.02) * rng.integers(40, 60, n).astype(float),
            "edge_brightness": np.nan,
            "mean_grey": 100.0,
            "noise": rng.normal(3, 0.5, n),
            "sharpness": rng.normal(0.1, 0.01, n),
            "breast_area": 3840.0,
            "density_estimate": rng.random(n),
            "reason": "the breast covers too little of the chest wall",
        }
    )


def draw_codes(rng: np.random.Generator, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return codes [n, R, C, h] and each image's lesion cell [n, 2]."""
    n, place = len(table), {name: i for i, name in enumerate(LATENTS)}
    codes = np.zeros((n, GRID.rows, GRID.columns, len(LATENTS)), np.float32)
    lesion = np.stack([rng.integers(3, 9, n), rng.integers(1, 5, n)], axis=1)
    marker, paddle = table["marker"].to_numpy(), table["paddle"].to_numpy()
    for i in range(n):
        row, column = lesion[i]
        seen = rng.random() < (0.85 if table["mass"].iloc[i] else 0.15)
        if seen:
            codes[i, row, column, place["clean"]] = 1 + rng.random()
            codes[i, row, column + 1, place["displaced"]] = 1 + rng.random()
        if rng.random() < (0.97 if marker[i] else 0.03):
            codes[i, 0, 7, place["marker"]] = 1 + rng.random()
        if rng.random() < (0.97 if paddle[i] else 0.03):
            codes[i, :, 6, place["paddle"]] = 1 + rng.random()
        vendor = table["manufacturer"].iloc[i] == "Beta"
        codes[i, ..., place["vendor"]] = np.maximum(0, vendor + 0.3 * rng.normal())
        codes[i, 1:11, 0:6, place["tissue"]] = 3 + rng.random()
    for name, latent in place.items():
        if name.startswith("noise"):
            fires = rng.random((n, GRID.rows, GRID.columns)) < 0.05
            codes[..., latent] = fires * rng.random(fires.shape)
    return codes, lesion


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(20)
    table = draw_cohort(rng)
    codes, lesion = draw_codes(rng, table)
    write_table(table, root / "images.parquet")
    measured = draw_measurements(np.random.default_rng(21), table)
    write_table(measured.iloc[::2], root / "measurements" / "0.parquet")
    write_table(measured.iloc[1::2], root / "measurements" / "1.parquet")
    ids = table["image_id"].tolist()
    breast = np.zeros((HEIGHT, WIDTH), bool)
    breast[8:88, :48] = True
    regions = ["mass", "marker"]
    with create_image_store(
        root / "0.zarr",
        root / "0.json",
        image_ids=ids,
        height=HEIGHT,
        width=WIDTH,
        regions=regions,
    ) as writer:
        for i in range(len(table)):
            masks = np.zeros((2, HEIGHT, WIDTH), bool)
            if table["mass"].iloc[i]:
                y, x = lesion[i] * STRIDE
                masks[0, y : y + STRIDE, x : x + STRIDE] = True
            if table["marker"].iloc[i]:
                masks[1, :STRIDE, 56:] = True
            writer.write(
                i,
                ImageRecord(
                    pixels=np.zeros((HEIGHT, WIDTH), np.uint8),
                    breast=breast,
                    regions=masks,
                    affine=np.eye(2, 3),
                    flipped=False,
                    spacing_mm=0.1,
                ),
            )
    with create_codes_store(
        root / "codes.zarr",
        root / "codes.json",
        image_ids=ids,
        grid=GRID,
        latents=len(LATENTS),
        k=len(LATENTS),
    ) as writer:
        index = np.broadcast_to(np.arange(len(LATENTS)), codes.shape)
        pooled = {
            "mean": codes.mean(axis=(1, 2)),
            "max": codes.max(axis=(1, 2)),
            "active": (codes > 0).mean(axis=(1, 2), dtype=np.float32),
        }
        everywhere = {f"{name}_breast": values for name, values in pooled.items()}
        writer.write(range(len(ids)), np.where(codes > 0, index, 0), codes, pooled | everywhere)
    return World(
        images=root / "images.parquet",
        image_stores=[root / "0.json"],
        measurements=[root / "measurements" / f"{shard}.parquet" for shard in range(2)],
        codes=root / "codes.json",
        table=table,
        dense=codes,
        lesion=lesion,
        grid=GRID,
        identity=Identity("finetuned", "head", "topk", 0),
    )
