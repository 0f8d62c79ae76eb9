"""A cohort of one layer in small real embedding stores, for tests of SAEs and of their quality."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.grids import LayerGrid
from mammo_sae.stores.embeddings import create_embedding_store
from mammo_sae.stores.images import ImageRecord, create_image_store
from mammo_sae.stores.tables import write_table

CHANNELS, ROWS, COLUMNS = 12, 4, 3


@dataclass(frozen=True)
class Cohort:
    """Embeddings of one layer in two stores, and the image table."""

    images: Path
    manifests: list[Path]
    image_stores: list[Path]
    layer: str
    cells: dict[str, np.ndarray]
    """Image id -> its stored cells [rows, columns, channels]."""
    splits: dict[str, list[str]]


def _write_masks(manifest: Path, ids: list[str], *, all_breast: bool) -> None:
    """Write image stores of 128 x 96 pixels in which all or the left third is breast."""
    breast = np.ones((128, 96), bool)
    if not all_breast:
        breast[:, 32:] = False
    with create_image_store(
        manifest.with_suffix(".zarr"), manifest,
        image_ids=ids, height=128, width=96, regions=[],
    ) as writer:  # fmt: skip
        for i, _ in enumerate(ids):
            record = ImageRecord(
                pixels=np.zeros((128, 96), np.uint8), breast=breast,
                regions=np.zeros((0, 128, 96), bool), affine=np.eye(2, 3), flipped=False,
                spacing_mm=1.0,
            )  # fmt: skip
            writer.write(i, record)


def write_cohort(
    folder: Path,
    images: int = 24,
    channels: int = CHANNELS,
    layer: str = "head",
    planted: np.ndarray | None = None,
) -> Cohort:
    """Write a cohort of sparse mixtures of known atoms below `folder`.

    `planted` [channels] is added to the first cell of every image.
    """
    random = np.random.default_rng(7)
    atoms = random.normal(size=(2 * channels, channels))
    grid = LayerGrid(layer, channels, ROWS, COLUMNS, 32, 0.0, 0.0, 64)
    ids = [f"{number:016x}" for number in range(images)]
    cells: dict[str, np.ndarray] = {}
    manifests, image_stores = [], []
    for shard in range(2):
        mine = ids[shard::2]
        store = folder / "embeddings" / str(shard)
        manifests.append(store.with_suffix(".json"))
        with create_embedding_store(store, manifests[-1], image_ids=mine, grids=[grid]) as writer:
            for image in mine:
                codes = random.exponential(size=(ROWS, COLUMNS, 2 * channels))
                codes *= random.random(codes.shape) < 3 / (2 * channels)
                cells[image] = (codes @ atoms + 2).astype(np.float16)
                if planted is not None:
                    cells[image][0, 0] += planted.astype(np.float16)
                writer.write({layer: cells[image][None]})
        image_stores.append(folder / "images" / f"{shard}.json")
        _write_masks(image_stores[-1], mine, all_breast=not shard)
    splits = {"training": ids[: images * 3 // 4], "test": ids[images * 3 // 4 :]}
    table = pd.DataFrame({"image_id": ids})
    table["split"] = ["training" if i in set(splits["training"]) else "test" for i in ids]
    write_table(table, folder / "images.parquet")
    return Cohort(folder / "images.parquet", manifests, image_stores, layer, cells, splits)
