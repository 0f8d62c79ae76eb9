"""Two small runs on the same images, to compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mammo_sae.atlas.stored import Stored
from mammo_sae.stores.tables import write_table
from small_atlas import CONCEPT, make_atlas, write_stores, write_tables

IMAGES = 80


def first_activation() -> np.ndarray:
    """Return the activations [n, 2] of the two live latents of the first run."""
    return np.random.default_rng(0).random((IMAGES, 2)) + 0.1


def write_run(folder: Path, activation: np.ndarray, *, splits: str = "training test") -> Stored:
    """Write a run, whose images are in turn of each of the splits."""
    ids = write_stores(folder, activation=activation)
    write_tables(folder)
    names = splits.split()
    cohort = pd.DataFrame(
        {
            "image_id": ids,
            "patient_id": [f"p{i // 2}" for i in range(len(ids))],
            "split": [names[i // 2 % len(names)] for i in range(len(ids))],
            "view": "CC",
            "side": "L",
            CONCEPT: pd.array([i // 4 % 2 for i in range(len(ids))], dtype="Int8"),
        }
    )
    write_table(cohort, folder / "cohort" / "images.parquet")
    return Stored(make_atlas(folder, folder / "atlas"))


def write_two_runs(folder: Path) -> list[Stored]:
    """Write two runs. Latent 0 of the first is latent 1 of the second; others have no match."""
    first, other = first_activation(), np.random.default_rng(1).random(IMAGES) + 0.1
    second = np.stack([other, 3 * first[:, 0]], axis=1)
    return [write_run(folder / "before", first), write_run(folder / "after", second)]
