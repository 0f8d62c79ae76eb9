"""A joint space of images and phrases, constructed so that it is known which latents have a name.

Images consist of factors, and a factor is a direction of the joint space. Some factors have a
phrase, others have none. Further phrases describe nothing in the images, and decoys lie apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mammo_sae.analysis.cases import Identity
from mammo_sae.grids import LayerGrid
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import create_codes_store
from mammo_sae.stores.embeddings import create_embedding_store
from mammo_sae.stores.tables import write_table
from mammo_sae.texts.joint import Joint, Projection, save_joint, unit_rows

SPACE, FEATURES = 64, 96
NAMED, NAMELESS, OTHER, DECOYS = 16, 8, 24, 20
PATIENTS = {"training": 150, "test": 200}
GRID = LayerGrid("head", 1, 1, 1, 32, 0.0, 0.0, 31)
POOLED = LayerGrid("pooled", FEATURES, 1, 1, 0, 0.0, 0.0, 0)


@dataclass(frozen=True)
class World:
    """Paths of the stores, and the factor of each latent, -1 for noise."""

    images: Path
    codes: Path
    embeddings: Path
    phrases: Path
    vectors: Path
    sae: Path
    factor: np.ndarray
    table: pd.DataFrame
    identity: Identity

    @property
    def named(self) -> np.ndarray:
        """Whether each latent has a phrase."""
        return (self.factor >= 0) & (self.factor < NAMED)

    def phrase(self, latent: int) -> str:
        """The phrase of a latent's factor."""
        return f"factor {self.factor[latent]}"


def make_world(folder: Path, seed: int) -> World:
    """Write the stores of a world."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    table = _cohort(rng)
    n, factors = len(table), NAMED + NAMELESS
    axes = unit_rows(rng.normal(size=(factors, SPACE)))
    patient = np.unique(table["patient_id"], return_inverse=True)[1]
    chance = rng.beta(0.3, 1.2, size=(patient.max() + 1, factors))[patient]
    strength = (rng.random((n, factors)) < chance) * (1 + rng.random((n, factors)))
    table["finding"] = (strength[:, 0] > 0).astype(int)
    gap = 3 * unit_rows(rng.normal(size=(1, SPACE)))
    embedded = gap + strength @ axes + 0.15 * rng.normal(size=(n, SPACE))

    # The features lie in a larger space, whose further part the projection does not see.
    turn = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))[0].astype(np.float32)
    weight = turn[:SPACE]
    bias = rng.normal(size=SPACE).astype(np.float32)
    features = (embedded - bias) @ weight + 0.5 * rng.normal(size=(n, FEATURES - SPACE)) @ turn[
        SPACE:
    ]

    _write_joint(rng, folder, axes, Projection(weight, bias))
    _write_embeddings(folder, table, features)
    factor = np.concatenate([np.repeat(np.arange(factors), 3), np.full(24, -1)])
    codes = np.maximum(0, rng.normal(0.0, 1.0, size=(n, len(factor))))
    has = factor >= 0
    codes[:, has] = np.maximum(0, strength[:, factor[has]] + 0.3 * rng.normal(size=(n, has.sum())))
    _write_codes(folder, table, codes.astype(np.float32))
    atoms = rng.normal(size=(len(factor), FEATURES)).astype(np.float32)
    atoms[has] = axes[factor[has]] @ weight + 0.05 * rng.normal(size=(has.sum(), FEATURES))
    decoder = torch.from_numpy(unit_rows(atoms))
    sae = SparseAutoencoder(
        decoder.clone(), torch.zeros(len(factor)), decoder, torch.zeros(FEATURES), k=4
    )
    sae.save(folder / "sae.safetensors", folder / "sae.json")
    write_table(table, folder / "images.parquet")
    return World(
        images=folder / "images.parquet",
        codes=folder / "codes.json",
        embeddings=folder / "embeddings.json",
        phrases=folder / "phrases.parquet",
        vectors=folder / "vectors.safetensors",
        sae=folder / "sae.json",
        factor=factor,
        table=table,
        identity=Identity("e", "head", "topk", 0),
    )


def _cohort(rng: np.random.Generator) -> pd.DataFrame:
    rows, patient = [], 0
    for split, count in PATIENTS.items():
        for _ in range(count):
            for _ in range(int(rng.integers(1, 4))):
                name = f"{len(rows):016x}"
                rows.append(
                    {"image_id": name, "patient_id": f"{patient:08x}", "split": split, "side": "L"}
                )
            patient += 1
    return pd.DataFrame(rows)


def _write_joint(
    rng: np.random.Generator, folder: Path, axes: np.ndarray, projection: Projection
) -> None:
    """Phrases of the first factors, of nothing in the images, and decoys, on a common direction."""
    common = 2 * unit_rows(rng.normal(size=(1, SPACE)))
    named = axes[:NAMED] + 0.05 * rng.normal(size=(NAMED, SPACE))
    apart = unit_rows(rng.normal(size=(OTHER + DECOYS, SPACE)))
    table = pd.DataFrame(
        {
            "phrase": [
                *(f"factor {i}" for i in range(NAMED)),
                *(f"other {i}" for i in range(OTHER)),
                *(f"decoy {i}" for i in range(DECOYS)),
            ],
            "group": ["finding"] * (NAMED + OTHER) + ["decoy"] * DECOYS,
            "label": ["Finding", *[""] * (NAMED + OTHER + DECOYS - 1)],
        }
    )
    vectors = unit_rows(common + np.concatenate([named, apart]))
    save_joint(
        Joint(table, vectors, projection),
        folder / "phrases.parquet",
        folder / "vectors.safetensors",
    )


def _write_embeddings(folder: Path, table: pd.DataFrame, features: np.ndarray) -> None:
    with create_embedding_store(
        folder / "embeddings",
        folder / "embeddings.json",
        image_ids=table["image_id"].tolist()[::-1],
        grids=[POOLED],
    ) as writer:
        values = features[::-1].astype(np.float16)[:, None, None]
        writer.write({"pooled": values})


def _write_codes(folder: Path, table: pd.DataFrame, codes: np.ndarray) -> None:
    n, h = codes.shape
    pooled = dict.fromkeys(("max", "mean", "max_breast", "mean_breast"), codes)
    pooled |= {name: (codes > 0).astype(np.float32) for name in ("active", "active_breast")}
    with create_codes_store(
        folder / "codes.zarr",
        folder / "codes.json",
        image_ids=table["image_id"].tolist(),
        grid=GRID,
        latents=h,
        k=1,
    ) as writer:
        index = np.zeros((n, 1, 1, 1), np.int32)
        writer.write(np.arange(n), index, np.zeros((n, 1, 1, 1), np.float32), pooled)
