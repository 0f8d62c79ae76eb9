"""The values of the default run that differ from the models' defaults and suit only the phantom."""

from __future__ import annotations

from typing import Any

DEMO: dict[str, Any] = {
    "name": "phantom",
    "cohort": {"kind": "phantom"},
    "saes": {
        "topk": {
            "layers": {
                "blocks.14": {"latents": 1152},
                "head": {
                    "latents": 2560,
                    "lr": 1.5e-3,
                    "steps": 400,
                    "batch": 1024,
                    "dead_after": 0.1,
                    "variant": {"k": 32, "k_aux": 256},
                },
            }
        },
        # Controls of the fine-tuned encoder at the head, which has all analyses.
        "untrained": {
            "variant": {"name": "random", "frozen": "both", "k": 32, "k_aux": 0},
            "latents": 2560,
            "steps": 20,
            "only": {"layers": ["head"], "encoders": ["finetuned"]},
        },
        "pca": {
            "variant": {"name": "pca", "k": 32},
            "latents": 2560,
            "only": {"layers": ["head"], "encoders": ["finetuned"]},
        },
        "channels": {
            "variant": {"name": "channels", "k": 32},
            "latents": 2560,
            "only": {"layers": ["head"], "encoders": ["finetuned"]},
        },
    },
    "probes": {"acquisition": ["marker", "manufacturer"], "anatomical": ["density"]},
    "confounds": {
        # The marker as the phantom's table has it, and as it is measured in the image.
        "acquisition": ["marker", "paddle", "manufacturer", "marker_area"],
        "anatomical": ["density", "view", "side", "age_bin"],
    },
}
