"""Settings of the report's figures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mammo_sae.settings import Settings


class CohortSheetSettings(Settings):
    """The cohort's contact sheet."""

    examples: int = Field(3, ge=1, le=8, description="images per split and concept")
    seed: int = Field(0, ge=0, description="seed of the choice of images")


class LatentSheetSettings(Settings):
    """The figure of a concept's top latents."""

    latents: int = Field(4, ge=1, le=12, description="latents shown per SAE and concept")
    examples: int = Field(
        5, ge=1, le=12, description="images of highest activation per latent, one per patient"
    )


class PublishedSettings(Settings):
    """The encoders and the SAE of the run that correspond to those of Mammo-SAE's paper."""

    sae: str = Field(description="name of the SAE that corresponds to the paper's")
    split: Literal["test", "external"] = Field("test", description="split that is compared")
    pretrained_mass: str | None = Field(
        None, description="encoder with the linear probe for Mass; null: its numbers are missing"
    )
    finetuned_mass: str | None = Field(None, description="encoder fine-tuned for Mass")
    pretrained_suspicious_calcification: str | None = Field(
        None, description="encoder with the linear probe for Suspicious Calcification"
    )
    finetuned_suspicious_calcification: str | None = Field(
        None, description="encoder fine-tuned for Suspicious Calcification"
    )


class ReportSettings(Settings):
    """Contents of the figures."""

    cohort: CohortSheetSettings = Field(
        CohortSheetSettings(), description="the cohort's contact sheet"
    )
    latents: LatentSheetSettings = Field(
        LatentSheetSettings(), description="the figure of a concept's top latents"
    )
    published: PublishedSettings | None = Field(
        None,
        description="encoders and SAE to compare with the results of Mammo-SAE's paper; "
        "null: the table `published` is not made (docs/reproduce.md)",
    )
