"""Small real embedding stores for the tests of the sparse autoencoders."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mammo_sae.grids import LayerGrid
from mammo_sae.sae import train
from mammo_sae.sae.settings import SaeTraining, TopKVariant
from mammo_sae.stores.embeddings import create_embedding_store
from mammo_sae.stores.images import ImageRecord, create_image_store
from mammo_sae.stores.tables import write_table

# Tests of this folder share `foreign`.
sys.path.insert(0, str(Path(__file__).parent))

CHANNELS, ROWS, COLUMNS = 12, 4, 3


@dataclass(frozen=True)
class Cohort:
    """Embeddings of one layer in two stores, and the image table."""

    images: Path
    manifests: list[Path]
    image_stores: list[Path]
    layer: str
    cells: dict[str, np.ndarray]
    """Per image id its stored cells [rows, columns, channels]."""
    splits: dict[str, list[str]]


def write_masks(manifest: Path, ids: list[str], *, all_breast: bool) -> None:
    """Write image stores of 128 x 96 pixels that are all breast, or whose left third is."""
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


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_cohort(tmp_path: Path) -> Callable[..., Cohort]:
    """Return a function that writes a cohort of sparse mixtures of known atoms."""

    def make(images: int = 24, channels: int = CHANNELS, layer: str = "head") -> Cohort:
        random = np.random.default_rng(7)
        atoms = random.normal(size=(2 * channels, channels))
        grid = LayerGrid(layer, channels, ROWS, COLUMNS, 32, 0.0, 0.0, 64)
        ids = [f"{number:016x}" for number in range(images)]
        cells: dict[str, np.ndarray] = {}
        manifests, image_stores = [], []
        for shard in range(2):
            mine = ids[shard::2]
            folder = tmp_path / "embeddings" / str(shard)
            manifests.append(folder.with_suffix(".json"))
            with create_embedding_store(
                folder, manifests[-1], image_ids=mine, grids=[grid]
            ) as writer:
                for image in mine:
                    codes = random.exponential(size=(ROWS, COLUMNS, 2 * channels))
                    codes *= random.random(codes.shape) < 3 / (2 * channels)
                    cells[image] = (codes @ atoms + 2).astype(np.float16)
                    writer.write({layer: cells[image][None]})
            image_stores.append(tmp_path / "images" / f"{shard}.json")
            write_masks(image_stores[-1], mine, all_breast=not shard)
        splits = {"training": ids[: images * 3 // 4], "test": ids[images * 3 // 4 :]}
        table = pd.DataFrame({"image_id": ids})
        table["split"] = ["training" if i in set(splits["training"]) else "test" for i in ids]
        write_table(table, tmp_path / "images.parquet")
        return Cohort(tmp_path / "images.parquet", manifests, image_stores, layer, cells, splits)

    return make


@pytest.fixture
def cohort(make_cohort: Callable[..., Cohort]) -> Cohort:
    return make_cohort()


@pytest.fixture
def settings() -> SaeTraining:
    return SaeTraining(
        variant=TopKVariant(k=4, k_aux=4), latents=32, lr=1e-2, steps=150, batch=64, seed=1
    )


@pytest.fixture
def train_sae(settings: SaeTraining) -> Callable[..., Path]:
    """Return a function that trains an SAE into a folder and returns its description."""

    def run(cohort: Cohort, folder: Path, own: SaeTraining = settings, **changes) -> Path:
        arguments = {
            "images": cohort.images,
            "embeddings": cohort.manifests,
            "layer": cohort.layer,
            "weights": folder / "sae.safetensors",
            "description": folder / "sae.json",
            "log": folder / "log.csv",
        }
        train.run(own, **{**arguments, **changes})
        return folder / "sae.json"

    return run
