"""Settings of the sparse autoencoders (SAEs): variants, optimisation, data.

`SaeSettings` is what a user writes for one named SAE: common values, and overrides per layer.
`SaeTraining` is the configuration of one training run: one layer, one seed, overrides applied.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mammo_sae.complaints import below, complaints, explain
from mammo_sae.errors import InputError
from mammo_sae.extensions import VARIANTS, or_added
from mammo_sae.settings import PathText, Settings


class AuxKVariant(Settings):
    """k active latents per cell, and the AuxK loss (Gao et al. 2024) that revives dead latents."""

    k: int = Field(16, ge=1, description="active latents per cell")
    k_aux: int = Field(
        128, ge=0, description="dead latents per cell that reconstruct the residual; 0: no AuxK"
    )
    aux_weight: float = Field(1.0, ge=0, description="weight of the AuxK loss")


class TopKVariant(AuxKVariant):
    """The k largest pre-activations of each cell are active."""

    name: Literal["topk"] = Field("topk", description="sparsity rule")


class BatchTopKVariant(AuxKVariant):
    """The n k largest pre-activations of n cells are active; a threshold decides after training."""

    name: Literal["batch_topk"] = Field("batch_topk", description="sparsity rule")


class MatryoshkaVariant(AuxKVariant):
    """BatchTopK with nested dictionaries, each of which must reconstruct the input."""

    name: Literal["matryoshka"] = Field("matryoshka", description="sparsity rule")
    groups: list[Annotated[float, Field(gt=0)]] = Field(
        [1 / 16, 1 / 8, 1 / 4, 9 / 16],
        min_length=1,
        description="relative sizes of the groups of latents, innermost first",
    )


class ArchetypalVariant(AuxKVariant):
    """TopK whose atoms point into the convex hull of the data."""

    name: Literal["archetypal"] = Field("archetypal", description="sparsity rule")
    candidates: int = Field(1024, ge=2, description="number of k-means centroids that atoms mix")
    relaxation: float = Field(
        0.1,
        ge=0,
        description="largest distance of an atom from the hull before it is scaled to norm 1, "
        "relative to the root-mean-square norm of the centred cells",
    )


class L1Variant(Settings):
    """ReLU, L1 penalty and resampling, after Mammo-SAE, on centred and scaled embeddings."""

    name: Literal["l1"] = Field("l1", description="sparsity rule")
    l1: float = Field(
        3e-5,
        ge=0,
        description="weight of the summed codes relative to the mean squared error, raw units",
    )
    resample_every: float = Field(
        0.05,
        gt=0,
        le=1,
        description="interval between resamplings of dead latents, as a share of the run; 1: never",
    )


class MammoSaeVariant(Settings):
    """ReLU, L1 penalty and resampling, exactly as in Mammo-SAE's public code.

    The published SAE was trained on augmented images. Stores hold embeddings of unchanged images.
    """

    name: Literal["mammo_sae"] = Field("mammo_sae", description="sparsity rule")
    l1: float = Field(
        3e-5,
        ge=0,
        description="weight of the summed codes relative to the mean squared error, raw units",
    )
    resample_every: float = Field(
        0.05,
        gt=0,
        le=1,
        description="interval between resamplings of latents that have not fired since the last "
        "one, as a share of the run; 1: never",
    )
    resample_cells: int = Field(
        20_480,
        ge=1,
        description="number of last training cells from which resampled latents are drawn",
    )


class JumpReLUVariant(Settings):
    """A learned threshold per latent, and a target number of active latents."""

    name: Literal["jumprelu"] = Field("jumprelu", description="sparsity rule")
    k: int = Field(16, ge=1, description="target for the mean number of active latents per cell")
    l0_weight: float = Field(
        1.0,
        ge=0,
        description="weight of (L0 / k - 1)^2; L0: mean number of active latents per cell",
    )
    threshold: float = Field(0.5, gt=0, description="initial threshold, scaled units")
    bandwidth: float = Field(
        0.5, gt=0, description="width of the window of the straight-through estimate, scaled units"
    )


class GatedVariant(Settings):
    """A gate decides whether a latent is active; a magnitude gives the code's size."""

    name: Literal["gated"] = Field("gated", description="sparsity rule")
    l1: float = Field(
        3e-3,
        ge=0,
        description="weight of the summed gates relative to the mean squared error, raw units",
    )


class PublishedVariant(Settings):
    """Published weights, used without training.

    Of the SAE's other values, only two are used: `seeds` for the names of the results, and `images`
    for the number of images on which the SAE is scored.
    """

    name: Literal["published"] = Field("published", description="weights from a file")
    path: PathText = Field(
        description="Mammo-SAE's sparse_autoencoder_final.pt, a folder of SAELens or "
        "dictionary_learning, a state dict of overcomplete, or the folder of an SAE of another run "
        "(with sae.json)"
    )
    sha256: str = Field(
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the file at `path`; for a folder, of its configuration followed by "
        "its weights: `cat cfg.json sae_weights.safetensors | sha256sum`",
    )
    k: int | None = Field(
        None,
        ge=1,
        description="active latents per cell; only for a state dict of overcomplete, which does "
        "not store k; k equal to the number of latents makes every pre-activation above 0 active",
    )


class RandomVariant(AuxKVariant):
    """TopK with a part frozen at its random start, a control (Korznikov et al. 2026)."""

    name: Literal["random"] = Field("random", description="sparsity rule")
    frozen: Literal["decoder", "encoder", "soft", "both"] = Field(
        "decoder",
        description="part that stays at its random start: decoder: the atoms; encoder: the "
        "encoder's rows and biases; soft: each atom stays near its start; both: all but the "
        "decoder's bias, so the SAE is untrained",
    )
    cosine: float = Field(
        0.8, gt=0, le=1, description="with soft: least cosine of an atom with its start"
    )

    @model_validator(mode="after")
    def _cosine_is_used(self) -> RandomVariant:
        default = RandomVariant.model_fields["cosine"].default
        if self.frozen != "soft" and self.cosine != default:
            raise ValueError(
                f"cosine = {self.cosine:g} has no effect with frozen: {self.frozen}; leave it out "
                "or set frozen to soft"
            )
        return self


class ComputedVariant(Settings):
    """A dictionary computed at once from sampled training cells, a control.

    Of the SAE's other values, only `seeds`, `latents`, `background`, `cells_per_image`, `images`
    and `buffer` are used. Values of the optimiser (`lr`, `steps`, `batch`, `warm_up`, `decay`,
    `dead_after`) are ignored.
    """

    k: int = Field(16, ge=1, description="active latents per cell")


class ChannelsVariant(ComputedVariant):
    """The embedding's own channels and their negatives as latents, centred on the mean.

    `latents` is ignored: there are two latents per channel.
    """

    name: Literal["channels"] = Field("channels", description="the dictionary")


class PCAVariant(ComputedVariant):
    """The principal components of sampled training cells and their negatives as latents.

    There are two latents per component: the first `latents / 2` components, or all components if
    that is more than the number of channels.
    """

    name: Literal["pca"] = Field("pca", description="the dictionary")


class NMFVariant(ComputedVariant):
    """A non-negative matrix factorisation of sampled training cells."""

    name: Literal["nmf"] = Field("nmf", description="the dictionary")


Variant = Annotated[
    TopKVariant
    | BatchTopKVariant
    | MatryoshkaVariant
    | ArchetypalVariant
    | L1Variant
    | MammoSaeVariant
    | JumpReLUVariant
    | GatedVariant
    | PublishedVariant
    | RandomVariant
    | ChannelsVariant
    | PCAVariant
    | NMFVariant,
    Field(discriminator="name"),
]
Variant = or_added(Variant, VARIANTS)  # type: ignore[misc]


class TrainingValues(Settings):
    """Values of a training run that all variants share."""

    variant: Variant = Field(
        default_factory=TopKVariant, description="the SAE variant and its own settings"
    )
    latents: int = Field(
        896,
        ge=1,
        description="number of latents h; ignored by published and channels, whose weights and "
        "channels decide it; pca has at most 2 per channel",
    )
    lr: float = Field(3e-3, gt=0, description="peak learning rate of Adam")
    steps: int = Field(800, ge=1, description="number of training steps")
    batch: int = Field(2048, ge=1, description="cells per step")
    warm_up: float = Field(
        0.05, ge=0, lt=1, description="share of the steps over which lr rises linearly from 0"
    )
    decay: float = Field(
        0.2, ge=0, le=1, description="share of the steps, at the end, over which lr falls to 0"
    )
    dead_after: float = Field(
        0.05,
        gt=0,
        le=1,
        description="a latent is dead when it has not fired for this share of the steps",
    )
    init: Literal["random", "cells"] = Field(
        "random",
        description="initial atoms: random directions, or directions of training cells; the "
        "encoder's rows start with the same directions",
    )
    bias: Literal["mean", "median"] = Field(
        "mean", description="initial decoder bias: mean or geometric median of the cells"
    )
    background: float = Field(
        1.0, ge=0, le=1, description="share of the cells outside the breast that training uses"
    )
    cells_per_image: int | None = Field(
        None, ge=1, description="number of random cells per image that training uses; null: all"
    )
    high_norm: float | None = Field(
        None,
        gt=1,
        description="multiple of the median norm of the layer's cells above which a cell is an "
        "artefact of a vision transformer, left out of training and of the scores; null: none is",
    )
    images: int | None = Field(
        None, ge=1, description="number of random images that training uses; null: all"
    )
    buffer: int = Field(
        2048,
        ge=1,
        description="MiB of cells kept in memory: the whole split if it fits, else a mixing buffer",
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrainingValues:
        name = self.variant.name
        k = None if name in ("published", "channels") else getattr(self.variant, "k", None)
        if k is not None and k > self.latents:
            raise ValueError(f"variant.k = {k} is more than latents = {self.latents}; lower it")
        if self.warm_up + self.decay > 1:
            raise ValueError(
                f"warm_up + decay = {self.warm_up + self.decay:g} is more than the whole run; "
                "lower one"
            )
        computed = isinstance(self.variant, ComputedVariant)
        if self.init == "cells" and (computed or name == "random"):
            raise ValueError(f"init = cells has no meaning for variant {name}; leave it out")
        if self.bias == "median" and computed:
            raise ValueError(
                f"bias = median has no meaning for variant {name}, which is centred on the mean; "
                "leave it out"
            )
        if name == "pca" and self.latents % 2:
            raise ValueError(
                f"latents = {self.latents} is odd, but variant pca has two latents per component; "
                "make it even"
            )
        return self


class SaeTraining(TrainingValues):
    """One SAE to train: one layer, one seed, overrides applied."""

    seed: int = Field(0, ge=0, description="seed of initialisation and of the order of the cells")


class OnlySettings(Settings):
    """The layers and encoders on which a named SAE is trained."""

    layers: list[str] | None = Field(
        None, min_length=1, description="some of the layers of the run; null: all"
    )
    encoders: list[str] | None = Field(
        None, min_length=1, description="some of the encoders of the run; null: all"
    )


class SaeSettings(TrainingValues):
    """One named SAE over all layers: common values, overrides per layer, seeds."""

    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="one SAE is trained per seed"
    )
    only: OnlySettings = Field(
        OnlySettings(), description="layers and encoders on which the SAE is trained"
    )
    layers: dict[str, dict[str, Any]] = Field(
        {},
        description="for each layer, the values that differ from the common values",
    )

    @model_validator(mode="after")
    def _layers_resolve(self) -> SaeSettings:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} holds a seed twice; remove one")
        wrong = []
        for layer in self.layers:
            try:
                self._training(layer, self.seeds[0])
            except ValidationError as error:
                wrong += [f"layers.{layer}.{text}" for text in complaints(error, SaeTraining)]
        if wrong:
            raise below(wrong)
        return self

    def covers(self, encoder: str, layer: str) -> bool:
        """Return whether the SAE is trained on a layer of an encoder."""
        layers, encoders = self.only.layers, self.only.encoders
        return (layers is None or layer in layers) and (encoders is None or encoder in encoders)

    def is_control(self, layer: str) -> bool:
        """Return whether the dictionary of a layer is a control, not learnt as a whole."""
        variant = self.training(layer, self.seeds[0]).variant
        return isinstance(variant, RandomVariant | ComputedVariant)

    def training(self, layer: str, seed: int) -> SaeTraining:
        """Return the resolved settings of one layer and one seed.

        Raises
        ------
        InputError
            If the layer's overrides are not valid. The message names layer and key.
        """
        try:
            return self._training(layer, seed)
        except ValidationError as error:
            raise InputError(explain(error, f"layers.{layer}", SaeTraining)) from None

    def _training(self, layer: str, seed: int) -> SaeTraining:
        common = self.model_dump(exclude={"layers", "seeds", "only"})
        resolved = {**_laid_over(common, self.layers.get(layer, {})), "seed": seed}
        return SaeTraining.model_validate(resolved)


def _laid_over(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return `common` with its values replaced by those of `own`; in `variant`, key by key.

    If `own` names another variant, that variant's defaults are used, not the common values.
    """
    merged = {**common, **own}
    variant = own.get("variant")
    if isinstance(variant, dict):
        before = common["variant"]
        if variant.get("name", before["name"]) == before["name"]:
            merged["variant"] = {**before, **variant}
    return merged
