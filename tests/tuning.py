"""Fine-tuning of encoders on small cohorts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mammo_sae.encoders import finetune
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.encoders.settings import FastRecipe, FinetunedSettings


def head_of_zeros(directory: Path, channels: int = 1280) -> Path:
    """Write the head of a base that does not detect a mass: its AUROC is 0.5."""
    directory.mkdir(parents=True, exist_ok=True)
    save_head(
        Head(np.zeros((1, channels), np.float32), np.zeros(1, np.float32), ("mass",)),
        directory / "head.safetensors",
        directory / "head.json",
    )
    return directory


def tune(
    directory: Path,
    base: Path,
    cohort: Path,
    stores,
    freeze: str | None = "blocks.4",
    head: Path | None = None,
    **recipe,
) -> Path:
    """Fine-tune the encoder `base` from its layer `freeze`, or whole. Return `directory`."""
    finetune.run(
        FinetunedSettings(
            kind="finetuned",
            base="pretrained",
            freeze=freeze,
            recipe=FastRecipe(**{"epochs": 3, "batch_size": 8, "most_cycles": 1} | recipe),
        ),
        concepts=["mass"],
        images=cohort,
        base=base,
        base_head=head or head_of_zeros(directory.with_name("base_head")),
        **{"image_stores" if freeze is None else "embeddings": stores},
        weights=directory / "encoder.safetensors",
        description=directory / "encoder.json",
        head_weights=directory / "head.safetensors",
        head_description=directory / "head.json",
        history=directory / "log.csv",
    )
    return directory
