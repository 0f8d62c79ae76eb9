"""Settings of the step that converts a cohort's files."""

from __future__ import annotations

from pydantic import Field

from mammo_sae.dicom.settings import ClinicalSettings, ImagesSettings
from mammo_sae.phantom.settings import PhantomPartSettings
from mammo_sae.settings import PathText, Settings


class ConversionSettings(Settings):
    """All values that the conversion of a shard depends on."""

    images: ImagesSettings = Field(ClinicalSettings(), description="the preprocessing")
    kind: str = Field(
        "phantom",
        pattern="^[a-z][a-z0-9_]*$",
        description="kind of the cohort, which decides how its files are found",
    )
    shards: int = Field(1, ge=1, description="number of shards of the cohort")
    key_file: PathText | None = Field(None, description="file with the secret of the pseudonyms")


class PairsSettings(Settings):
    """All values that the pairs of phantom images depend on."""

    phantom: PhantomPartSettings = Field(description="the phantom's part `pairs`")
    images: ImagesSettings = Field(ClinicalSettings(), description="the preprocessing")
