"""Settings of the analyses. Imported whenever the Snakefile is parsed: nothing heavy here."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mammo_sae.phantom.settings import Component
from mammo_sae.settings import Settings

Split = Literal["training", "validation", "test", "external"]
Pooling = Literal["max", "mean"]
Score = Literal["max", "mean", "max_breast", "mean_breast"]
Unit = Literal["image", "breast", "patient"]
Ranking = Literal[
    "class_mean", "mean_difference", "class_contrast", "effect", "auroc", "sparse_probe"
]
Splice = Literal["spliced", "error_preserving", "mean_ablated"]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class BootstrapSettings(Settings):
    """Seed and number of bootstrap draws. They mean the same in every analysis."""

    seed: int = Field(0, ge=0, description="seed of the patient bootstrap and permutations")
    bootstrap_draws: int = Field(
        200, ge=20, description="patient-bootstrap draws of each 95 % interval"
    )


class ResamplingSettings(BootstrapSettings):
    """Seed and numbers of resamples. They mean the same in every analysis."""

    permutation_draws: int = Field(
        999, ge=99, description="patient-level permutations of each p-value"
    )


class SplitSettings(BootstrapSettings):
    """The split that ranks latents, and the split of other patients that scores them."""

    discovery: Split = Field(
        "training", description="split whose images rank the latents; differs from confirmation"
    )
    confirmation: Split = Field("test", description="split whose images score the ranked latents")

    @model_validator(mode="after")
    def _splits_differ(self) -> Self:
        if self.discovery == self.confirmation:
            raise ValueError("discovery and confirmation must be different splits; change one")
        return self


class PenaltySettings(SplitSettings):
    """Logistic regressions on the discovery split, with a cross-validated penalty."""

    penalties: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        (1e-3, 1e-2),
        min_length=1,
        description="inverse strengths of the L2 penalty (scikit-learn's C) to choose among",
    )
    folds: int = Field(
        2, ge=2, description="patient-level folds of the discovery split that choose the penalty"
    )


class QualitySettings(Settings):
    """Scores of an SAE on images it was not trained on."""

    split: Literal["validation", "test", "external"] = Field(
        "test", description="split whose images score the SAE"
    )
    seed: int = Field(0, ge=0, description="seed of the patient bootstrap")
    bootstrap_draws: int = Field(
        200, ge=20, description="patient-bootstrap draws of each 95 % interval"
    )


class LatentSettings(SplitSettings, ResamplingSettings):
    """Rankings and tests of latents for every concept."""

    score: Score = Field(
        "max",
        description="an image's score for a latent: max or mean of its code over the image's "
        "cells, or over those that the breast touches (max_breast, mean_breast)",
    )
    unit: Unit = Field(
        "image",
        description="unit that has a score: an image (one view), a breast or a patient; a breast "
        "or patient is positive if one of its images is",
    )
    aggregate: Pooling = Field(
        "max", description="how the scores of a unit's images are combined: max or mean"
    )
    sparse_penalty: float = Field(
        0.1,
        gt=0.0,
        description="inverse strength (scikit-learn's C) of the L1 penalty of the logistic "
        "regression on all latents; its weights give the ranking sparse_probe",
    )


class InterventionSettings(SplitSettings):
    """Interventions at the head layer: the first k latents kept or dropped."""

    top_k: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 16384),
        min_length=1,
        description="numbers of latents kept (on) or dropped (off); capped at the SAE's size",
    )
    rankings: tuple[Ranking, ...] = Field(
        ("class_mean", "mean_difference", "class_contrast", "auroc"),
        min_length=1,
        description="orders in which latents are kept or dropped",
    )
    splices: tuple[Splice, ...] = Field(
        ("spliced", "error_preserving"),
        min_length=1,
        description="form of the edited embedding: the reconstruction from the kept latents "
        "(spliced), the embedding minus the dropped latents (error_preserving), or the same plus "
        "the dropped latents' mean codes in the discovery split (mean_ablated)",
    )
    random_sets: int = Field(
        20,
        ge=1,
        description="number of random orders of latents in each control (matched, random)",
    )
    splits: tuple[Split, ...] = Field(
        ("test", "external"), min_length=1, description="splits on which edited logits are scored"
    )


class EffectSettings(BootstrapSettings):
    """Amounts that latents add to the logits at the head layer."""

    splits: tuple[Split, ...] = Field(
        ("test", "external"),
        min_length=1,
        description="splits on which effects are measured",
    )


class InnerSettings(SplitSettings):
    """Interventions and attribution at inner layers. Each edit runs the rest of the network."""

    layers: tuple[str, ...] = Field(
        ("blocks.14",), description="layers of the interventions, among those with SAEs"
    )
    top_k: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (10,),
        min_length=1,
        description="numbers of latents kept (on) or dropped (off); the number of all latents is "
        "always added",
    )
    rankings: tuple[Ranking, ...] = Field(
        ("auroc",), min_length=1, description="orders in which latents are kept or dropped"
    )
    splices: tuple[Splice, ...] = Field(
        ("spliced",),
        min_length=1,
        description="form of the edited embedding, as in interventions.splices",
    )
    random_sets: int = Field(
        1, ge=1, description="number of random orders, as in interventions.random_sets"
    )
    images: int = Field(
        48,
        ge=1,
        description="largest number of images of the confirmation split that are used, and of the "
        "discovery split that choose thresholds; patients are taken whole, in the order of the "
        "image table",
    )
    batch_size: int = Field(32, ge=1, description="images per run of the network")
    ablated: int = Field(
        3, ge=0, description="latents of largest attribution per concept that are also ablated"
    )


class AlignmentSettings(SplitSettings, ResamplingSettings):
    """Tests whether a latent fires on the lesion."""

    rankings: tuple[Ranking, ...] = Field(
        ("auroc", "class_mean", "effect"),
        min_length=1,
        description="rankings whose best latents are tested",
    )
    top_latents: int = Field(
        20, ge=1, description="latents tested per concept and ranking, best first"
    )
    matched_latents: int = Field(
        3, ge=1, description="random latents with a similar firing rate for each tested one"
    )
    quantile: Share = Field(
        0.005,
        description="share of the breast area of a split that a latent's binary map covers, for "
        "the pooled IoU",
    )
    splits: tuple[Split, ...] = Field(
        ("test", "external"),
        min_length=1,
        description="splits on which the ranked latents are scored by the size of the lesion",
    )
    region_images: int = Field(
        100,
        ge=1,
        description="largest number of images of the confirmation split in which marker, "
        "background, skin line, nipple, edge line and pectoral muscle are found; patients are "
        "taken whole, in the order of the image table",
    )


class SaliencySettings(ResamplingSettings):
    """Maps of Grad-CAM and integrated gradients, scored as the maps of latents are."""

    splits: tuple[Split, ...] = Field(
        ("test",),
        min_length=1,
        description="splits whose images are scored; the first gives the limits between small, "
        "medium and large lesions",
    )
    quantile: Share = Field(
        0.005,
        description="share of the breast area of the scored images that a binary map covers, for "
        "the pooled IoU",
    )
    images: int = Field(
        24,
        ge=1,
        description="largest number of images with a lesion used per concept and split at inner "
        "layers; patients are taken whole, in the order of the image table",
    )
    steps: int = Field(
        12,
        ge=1,
        description="nodes of the integral of integrated gradients at inner layers; each runs the "
        "rest of the network forwards and backwards",
    )
    batch_size: int = Field(
        2,
        ge=1,
        description="images per run of the network; a run forwards and backwards keeps all maps",
    )


class ConfoundSettings(SplitSettings, ResamplingSettings):
    """Tests whether a latent's association with a concept is due to a confounder."""

    acquisition: tuple[str, ...] | None = Field(
        None,
        description="columns that describe how an image was acquired, from the image table, the "
        "image files and the measurements; null: all that are known and vary",
    )
    anatomical: tuple[str, ...] | None = Field(
        None,
        description="columns that describe tissue, view or age; a latent that follows one gets the "
        "verdict anatomy, not confounded; null: density, view, side, age_bin and the measured "
        "breast_area and density_estimate, if they are known and vary",
    )
    rankings: tuple[Ranking, ...] = Field(
        ("auroc", "class_mean", "effect"),
        min_length=1,
        description="rankings whose best latents are tested",
    )
    top_latents: int = Field(
        40, ge=1, description="latents tested per concept and ranking, best first"
    )
    max_levels: int = Field(
        6,
        ge=2,
        description="largest number of levels of a confounder; rare levels are merged, and numbers "
        "are binned",
    )
    alpha: Share = Field(0.05, description="q-value below which an association is significant")
    min_concept_excess: float = Field(
        0.10,
        gt=0.0,
        lt=0.5,
        description="a latent discriminates the concept if the interval of its stratified AUROC "
        "lies more than this beyond 0.5",
    )
    min_confounder_excess: float = Field(
        0.10,
        gt=0.0,
        lt=0.5,
        description="a latent discriminates the confounder only if its conditional AUROC differs "
        "from 0.5 by at least this",
    )
    min_kept: Share = Field(
        0.5,
        description="share of the crude AUROC's excess over 0.5 that must remain after "
        "stratification; below it, the association is due to the confounder",
    )


class NamingSettings(SplitSettings, ResamplingSettings):
    """Names of latents in words, if `text` is set."""

    score: Score = Field(
        "max", description="how a latent's codes are pooled over an image's cells, as in latents"
    )
    top_images: int = Field(
        100, ge=1, description="images of highest score that describe a latent (soft-WPMI's K)"
    )
    sharpness: float = Field(
        10.0, gt=0.0, description="factor of the cosines before the softmax over phrases (its a)"
    )
    share: Share = Field(
        0.2,
        description="share of the confirmation images, those most similar to a phrase, which the "
        "latent's score must find",
    )
    directions: int = Field(
        10_000, ge=100, description="random directions that show how near to a phrase chance comes"
    )
    alpha: Share = Field(0.05, description="q-value below which a latent may be named")


class ReplicationSettings(Settings):
    """The splits on which latents are judged again."""

    splits: tuple[Split, ...] = Field(
        ("external",),
        description="splits other than the confirmation split on which the latents that are "
        "associated with a concept are judged again; none: no table replication",
    )


class JudgementSettings(Settings):
    """All values that the verdicts of latents on other splits depend on."""

    splits: tuple[Split, ...] = Field(description="the splits, as in replication.splits")
    latents: LatentSettings = Field(description="how scores and associations are computed")
    confounds: ConfoundSettings = Field(description="how verdicts are decided")


class AbsorptionSettings(PenaltySettings):
    """The latents that a concept is split over, and those that absorb it, at the head layer."""


class AblationSettings(PenaltySettings):
    """Predictions without the latents that a confounder explains, at the head layer."""

    max_levels: int = Field(
        6, ge=2, description="largest number of levels of a confounder, as in confounds.max_levels"
    )
    random_sets: int = Field(
        20, ge=1, description="random sets of latents with similar firing rates, for each set"
    )
    splits: tuple[Split, ...] = Field(
        ("test", "external"), min_length=1, description="splits on which predictions are scored"
    )


class InnerAblationSettings(SplitSettings):
    """Predictions without the latents that a confounder explains, at the layers of `inner.layers`.

    Each set of latents needs a run of the rest of the network.
    """

    max_levels: int = Field(
        6, ge=2, description="largest number of levels of a confounder, as in confounds.max_levels"
    )
    random_sets: int = Field(
        5, ge=1, description="random sets of latents with similar firing rates, for each set"
    )
    splits: tuple[Split, ...] = Field(
        ("external",), min_length=1, description="splits on which predictions are scored"
    )
    images: int = Field(
        300,
        ge=1,
        description="largest number of images per concept and split; patients are taken whole, in "
        "the order of the image table",
    )
    batch_size: int = Field(32, ge=1, description="images per run of the network")


class MatchedLatentSettings(Settings):
    """Pairs of latents of two encoders' SAEs at the same layer."""

    seed: int = Field(0, ge=0, description="seed of the random directions that give the null value")
    directions: int = Field(
        2000,
        ge=100,
        description="number of random directions whose largest cosines give the null value",
    )


class ActivationMatchSettings(SplitSettings):
    """Pairs of latents of two encoders that activate on the same images."""

    score: Score = Field(
        "max", description="how a latent's codes are pooled over an image's cells, as in latents"
    )


class ProbesSettings(PenaltySettings):
    """Probes on a layer's pooled embeddings and codes."""

    score: Score = Field(
        "max", description="how a latent's codes are pooled over an image's cells, as in latents"
    )
    acquisition: tuple[str, ...] | None = Field(
        None,
        description="acquisition columns to probe; null: the cohort's covariates, manufacturer, "
        "model and pixel spacing, if they are known and vary",
    )
    anatomical: tuple[str, ...] | None = Field(
        None, description="anatomical columns to probe; null: density, if it is known and varies"
    )
    max_levels: int = Field(
        6,
        ge=2,
        description="largest number of levels of a column; rare levels are merged, and numbers are "
        "binned",
    )
    k: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 5, 10, 50), min_length=1, description="numbers of latents of the k-sparse probes"
    )
    components: int = Field(
        32, ge=1, description="principal components of the mean embeddings in the PCA probe"
    )
    l1_penalties: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        (),
        description="inverse strengths of the L1 penalty to choose among, for the L1 probe on "
        "codes; empty: no L1 probe",
    )
    outer_folds: int = Field(
        5,
        ge=2,
        description="patient-level folds that score the discovery split, if it is among splits; "
        "each fold is scored by probes fitted and chosen on the other folds",
    )
    ordered: tuple[str, ...] = Field(
        ("density",),
        description="probed columns whose levels are also probed as one ordered scale",
    )
    splits: tuple[Split, ...] = Field(
        ("test", "external"), min_length=1, description="splits on which the probes are scored"
    )


class TruthSettings(Settings):
    """Scores of verdicts against the ground truth of a phantom, its pairs of images."""

    concept: str = Field("mass", description="concept associated with the phantom's confounders")
    planted: dict[str, Component] = Field(
        {"marker": "marker", "manufacturer": "vendor"},
        min_length=1,
        description="the confounders with an odds ratio above 1: column of the cohort -> artefact "
        "of the phantom",
    )
    controls: dict[str, Component] = Field(
        {"paddle": "paddle"}, description="the negative controls, with odds ratio 1, likewise"
    )
    least_response: float = Field(
        0.5,
        gt=0.0,
        description="least mean difference between paired images, in standard deviations, at which "
        "a latent counts as responding",
    )
    weak_response: float = Field(
        0.2,
        gt=0.0,
        description="least mean difference at which a latent counts as responding weakly",
    )

    @model_validator(mode="after")
    def _weak_is_less(self) -> Self:
        if self.weak_response > self.least_response:
            raise ValueError("weak_response is more than least_response; lower it")
        return self
