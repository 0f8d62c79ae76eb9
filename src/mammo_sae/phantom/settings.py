"""Settings of the phantom cohort: simulated mammograms with known ground truth.

Lengths are in pixels of an image of `REFERENCE_HEIGHT` rows. They are scaled with the configured
height, so a small image has the same anatomy. Contrasts are in display units: 0 is black, 1 is
white.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from mammo_sae.settings import Settings

Part = Literal["training", "test", "external", "pairs"]
Concept = Literal["mass", "suspicious_calcification"]
Artefact = Literal["marker", "vendor", "paddle", "skin_fold", "wire", "dead_column", "implant"]
Density = Literal["A", "B", "C", "D"]

Component = Concept | Artefact

ARTEFACTS: tuple[Artefact, ...] = get_args(Artefact)
COMPONENTS: tuple[Component, ...] = (*get_args(Concept), *ARTEFACTS)

# Finding -> its category in the tables of the archive.
CATEGORIES: dict[str, str] = {
    "mass": "Mass",
    "suspicious_calcification": "Suspicious Calcification",
}

REFERENCE_HEIGHT = 384


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"lower end {interval[0]} is above upper end {interval[1]}; swap them")
    return interval


Length = Annotated[float, Field(gt=0, le=60)]
Contrast = Annotated[float, Field(gt=0, le=0.6)]
Probability = Annotated[float, Field(gt=0, lt=1)]
LengthRange = Annotated[tuple[Length, Length], AfterValidator(_ordered)]
ContrastRange = Annotated[tuple[Contrast, Contrast], AfterValidator(_ordered)]


class PatientCounts(Settings):
    """Number of patients in each part of the cohort."""

    training: int = Field(400, ge=1, le=99_999, description="patients for training and ranking")
    test: int = Field(200, ge=1, le=99_999, description="patients with the same odds ratios")
    external: int = Field(
        150, ge=1, le=99_999, description="patients with all odds ratios of artefacts 1"
    )
    pairs: int = Field(
        30,
        ge=2,
        le=99_999,
        description="patients whose images are drawn with and without each finding and artefact",
    )


class Prevalence(Settings):
    """Frequency of each concept among patients."""

    mass: Probability = Field(0.4, description="share of patients with a mass")
    suspicious_calcification: Probability = Field(
        0.35, description="share of patients with a calcification cluster"
    )
    odds_ratio: float = Field(
        1.5, gt=0, le=1000, description="odds ratio of mass and calcification, over patients"
    )


class DensityShares(Settings):
    """Share of patients in each BI-RADS density category. The four shares sum to 1."""

    A: float = Field(0.1, ge=0, le=1, description="share of almost entirely fatty breasts")
    B: float = Field(0.4, ge=0, le=1, description="share of breasts with scattered density")
    C: float = Field(0.4, ge=0, le=1, description="share of heterogeneously dense breasts")
    D: float = Field(0.1, ge=0, le=1, description="share of extremely dense breasts")

    @model_validator(mode="after")
    def _sums_to_one(self) -> DensityShares:
        total = self.A + self.B + self.C + self.D
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of A, B, C and D sum to {total:g}; make them sum to 1")
        return self


class MassSettings(Settings):
    """Masses: oval and circumscribed, or spiculated."""

    radius: LengthRange = Field((14.0, 24.0), description="smallest and largest radius, pixels")
    contrast: ContrastRange = Field(
        (0.16, 0.28), description="smallest and largest peak contrast, display units"
    )
    spiculated: float = Field(0.5, ge=0, le=1, description="share of masses that are spiculated")


class CalcificationSettings(Settings):
    """Clusters of fine bright specks."""

    specks: tuple[int, int] = Field((6, 13), description="fewest and most specks of a cluster")
    contrast: ContrastRange = Field(
        (0.30, 0.50), description="smallest and largest peak contrast of a speck, display units"
    )
    blur: float = Field(
        0.95, ge=0.3, le=3, description="standard deviation of a speck, pixels (never below 0.6)"
    )
    spread: LengthRange = Field(
        (8.0, 15.0), description="smallest and largest radius of a cluster, pixels"
    )

    @field_validator("specks")
    @classmethod
    def _enough_specks(cls, specks: tuple[int, int]) -> tuple[int, int]:
        if not 3 <= specks[0] <= specks[1] <= 60:
            raise ValueError("a cluster has 3 to 60 specks, the fewest first")
        return specks


class DistractorSettings(Settings):
    """Benign structures that resemble a finding a little. They have no label."""

    islands: float = Field(1.5, ge=0, le=10, description="mean number of dense islands, Poisson")
    island_contrast: ContrastRange = Field(
        (0.06, 0.15), description="smallest and largest contrast of an island, display units"
    )
    vessels: float = Field(3.0, ge=0, le=10, description="mean number of vessels, Poisson")
    specks: float = Field(1.5, ge=0, le=10, description="mean number of single specks, Poisson")


class ArtefactSettings(Settings):
    """The frequency of an artefact and its association with the confounded concept."""

    odds_ratio: float = Field(
        gt=0, le=1000, description="odds ratio with the concept, over patients; 1: no association"
    )
    rate: Probability = Field(0.5, description="share of all patients that have the artefact")


class ConfounderSettings(Settings):
    """The artefacts, drawn per patient: logit P(artefact | concept Y) = a + log(odds ratio) Y."""

    concept: Concept = Field("mass", description="the concept Y associated with the artefacts")
    marker: ArtefactSettings = Field(
        ArtefactSettings(odds_ratio=8.0), description="burnt-in view marker"
    )
    vendor: ArtefactSettings = Field(
        ArtefactSettings(odds_ratio=3.0), description="second manufacturer"
    )
    paddle: ArtefactSettings = Field(
        ArtefactSettings(odds_ratio=1.0), description="edge of the paddle, the negative control"
    )
    skin_fold: ArtefactSettings | None = Field(
        None, description="bright fold of skin at the lower end of the breast; null: never"
    )
    wire: ArtefactSettings | None = Field(
        None, description="metal wire on the skin over a scar; null: never"
    )
    dead_column: ArtefactSettings | None = Field(
        None, description="black column of the detector; null: never"
    )
    implant: ArtefactSettings | None = Field(
        None, description="implant against the chest wall; null: never"
    )

    @property
    def drawn(self) -> dict[Artefact, ArtefactSettings]:
        """The artefacts that some patients have, with their settings."""
        found = {name: getattr(self, name) for name in ARTEFACTS}
        return {name: settings for name, settings in found.items() if settings is not None}


class _Recipe(Settings):
    """Settings that all parts of the cohort share."""

    seed: int = Field(0, ge=0, description="seed of the whole cohort")
    breasts: Literal["one", "both"] = Field(
        "one", description="breasts imaged per patient; each gives a CC and an MLO view"
    )
    height: int = Field(REFERENCE_HEIGHT, ge=64, le=4096, description="rows of an image, pixels")
    width: int = Field(256, ge=48, le=4096, description="columns of an image, pixels")
    prevalence: Prevalence = Field(Prevalence(), description="frequency of findings")
    density: DensityShares = Field(DensityShares(), description="shares of breast densities")
    mass: MassSettings = Field(MassSettings(), description="size, contrast and kind of masses")
    calcification: CalcificationSettings = Field(
        CalcificationSettings(), description="size and contrast of calcification clusters"
    )
    distractors: DistractorSettings = Field(
        DistractorSettings(), description="benign structures without a label"
    )
    texture_exponent: float = Field(
        3.0, ge=1.5, le=4.5, description="beta of the tissue's power spectrum 1 / f^beta"
    )
    noise: float = Field(
        0.010,
        ge=0,
        le=0.1,
        description="standard deviation of the noise in half glandular tissue, display units",
    )
    confounders: ConfounderSettings = Field(
        ConfounderSettings(), description="artefacts and their odds ratios with a concept"
    )

    @model_validator(mode="after")
    def _portrait(self) -> _Recipe:
        if not 1.2 <= self.height / self.width <= 2:
            raise ValueError(
                f"height {self.height} over width {self.width} must lie between 1.2 and 2, "
                "as for a breast against the left or right edge"
            )
        return self

    @property
    def components(self) -> tuple[Component, ...]:
        """The findings and artefacts that some patients have."""
        return (*get_args(Concept), *self.confounders.drawn)

    @property
    def scale(self) -> float:
        """Return pixels of this image per pixel of the reference height."""
        return self.height / REFERENCE_HEIGHT


class PhantomSettings(_Recipe):
    """The phantom cohort: training and test parts with confounders, an external part without.

    The part `pairs` is not in the archive. Its images show what each latent responds to.
    """

    patients: PatientCounts = Field(PatientCounts(), description="patients of each part")

    def part(self, part: Part) -> PhantomPartSettings:
        """Return the settings on which `part` depends.

        In the parts `external` and `pairs` every odds ratio of an artefact is 1.
        """
        recipe = {name: getattr(self, name) for name in _Recipe.model_fields}
        if part in ("external", "pairs"):
            confounders = self.confounders
            recipe["confounders"] = confounders.model_copy(
                update={
                    name: artefact.model_copy(update={"odds_ratio": 1.0})
                    for name, artefact in confounders.drawn.items()
                }
            )
        return PhantomPartSettings(part=part, patients=getattr(self.patients, part), **recipe)


class PhantomPartSettings(_Recipe):
    """One part of the cohort, with its odds ratios."""

    part: Part = Field(description="name of the part; every random stream and id depends on it")
    patients: int = Field(ge=1, le=99_999, description="number of patients")
