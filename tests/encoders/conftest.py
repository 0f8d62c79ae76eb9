from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo_sae.encoders import extract, import_encoder
from mammo_sae.encoders.settings import ExtractionSettings, PretrainedSettings
from mammo_sae.stores.images import ImageRecord, create_image_store
from mammo_sae.stores.tables import write_table

HEIGHT, WIDTH = 96, 64


@pytest.fixture(scope="session")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of EfficientNet-Lite0 as imported from its package."""
    directory = tmp_path_factory.mktemp("lite0")
    import_encoder.run(
        PretrainedSettings(),
        weights=directory / "encoder.safetensors",
        description=directory / "encoder.json",
    )
    return directory


@pytest.fixture
def image_store(tmp_path: Path) -> Callable[..., tuple[Path, pd.DataFrame]]:
    """A function that writes a shard of toy images; half show a bright blob, the `mass`."""

    def write(
        name: str = "0", count: int = 20, height: int = HEIGHT, width: int = WIDTH
    ) -> tuple[Path, pd.DataFrame]:
        rng = np.random.default_rng(int(name))
        ids = [f"image-{name}-{i}" for i in range(count)]
        manifest = tmp_path / "images" / f"{name}.json"
        with create_image_store(
            tmp_path / "images" / f"{name}.zarr",
            manifest,
            image_ids=ids,
            height=height,
            width=width,
            regions=[],
        ) as writer:
            for i in range(count):
                pixels = rng.normal(90, 8, (height, width))
                if i % 2:
                    y, x = rng.integers(16, height - 16), rng.integers(16, width - 16)
                    pixels[y - 8 : y + 8, x - 8 : x + 8] += 90
                writer.write(i, record(np.clip(pixels, 0, 255).astype(np.uint8)))
        return manifest, cohort(ids)

    return write


@pytest.fixture
def cached(lite0, image_store, tmp_path):
    """Cohort table, manifests of its images, and of its embeddings at blocks.4."""
    stores = [image_store(name, count=24) for name in ("0", "1")]
    cohort = tmp_path / "images.parquet"
    write_table(pd.concat([table for _, table in stores], ignore_index=True), cohort)
    images, embeddings = [manifest for manifest, _ in stores], []
    for manifest in images:
        path = tmp_path / "embeddings" / manifest.stem
        embeddings.append(path.with_suffix(".json"))
        extract.run(
            ExtractionSettings(),
            encoder=lite0,
            layers=["blocks.4"],
            image_store=manifest,
            store=path,
            manifest=embeddings[-1],
        )
    return cohort, images, embeddings


def record(pixels: np.ndarray) -> ImageRecord:
    height, width = pixels.shape
    return ImageRecord(
        pixels=pixels,
        breast=np.ones((height, width), bool),
        regions=np.zeros((0, height, width), bool),
        affine=np.eye(2, 3),
        flipped=False,
        spacing_mm=0.1,
    )


def cohort(ids: Sequence[str], split: str = "training") -> pd.DataFrame:
    """Image table: two images per patient, every other image positive."""
    return pd.DataFrame(
        {
            "image_id": ids,
            "patient_id": [
                f"patient-{image.rsplit('-', 1)[0]}-{i // 2}" for i, image in enumerate(ids)
            ],
            "split": split,
            "mass": pd.array([i % 2 for i in range(len(ids))], dtype="Int8"),
        }
    )
