"""Settings of the report's figures."""

from __future__ import annotations

from pydantic import Field

from mammo_sae.settings import Settings


class CohortSheetSettings(Settings):
    """The cohort's contact sheet."""

    examples: int = Field(3, ge=1, le=8, description="images per split and concept")
    seed: int = Field(0, ge=0, description="seed of their choice")


class LatentSheetSettings(Settings):
    """The pictures of a concept's top latents."""

    latents: int = Field(4, ge=1, le=12, description="latents shown per SAE and concept")
    examples: int = Field(
        5, ge=1, le=12, description="images of highest activation per latent, one per patient"
    )


class ReportSettings(Settings):
    """What the figures show."""

    cohort: CohortSheetSettings = Field(
        CohortSheetSettings(), description="the cohort's contact sheet"
    )
    latents: LatentSheetSettings = Field(
        LatentSheetSettings(), description="the pictures of a concept's top latents"
    )
