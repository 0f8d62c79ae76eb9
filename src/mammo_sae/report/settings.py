"""Settings of the report's figures."""

from __future__ import annotations

from pydantic import Field

from mammo_sae.settings import Settings


class ReportSettings(Settings):
    """What the figures show."""

    latents: int = Field(4, ge=1, le=12, description="latents shown per concept and layer")
    examples: int = Field(
        5, ge=1, le=12, description="images of highest activation per latent, one per patient"
    )
    cohort_examples: int = Field(
        3, ge=1, le=8, description="images per split and concept on the cohort's contact sheet"
    )
    seed: int = Field(0, ge=0, description="seed of the choice of images on the contact sheet")
