"""Settings of the atlas."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mammo_sae.settings import Settings


class AtlasSettings(Settings):
    """Contents of the atlas."""

    images: Literal["stored", "none"] = Field(
        "stored",
        description="stored: canonical images are copied into the atlas; none: it has no pixel",
    )
    latents: int = Field(
        200, ge=1, description="latents per SAE whose page has images and heat maps"
    )
    examples: int = Field(
        6, ge=2, le=24, description="images of highest activation per latent, one per patient"
    )
