"""Settings of the sparse autoencoders (SAEs): variants, optimisation, data.

`SaeSettings` is what a user writes for one named SAE: common values, and overrides per layer.
`SaeTraining` is one layer and one seed of it, resolved: the configuration of one training run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mammo_sae.errors import InputError
from mammo_sae.settings import Settings, explain


class TopKVariant(Settings):
    """k largest pre-activations per cell, ReLU, AuxK against dead latents (Gao et al. 2024)."""

    name: Literal["topk"] = "topk"
    k: int = Field(16, ge=1, description="active latents per cell")
    k_aux: int = Field(
        128, ge=0, description="dead latents per cell that reconstruct the residual; 0: no AuxK"
    )
    aux_weight: float = Field(1 / 32, ge=0, description="weight of the AuxK loss")


Variant = TopKVariant


class TrainingValues(Settings):
    """What every training run needs, whatever its variant."""

    variant: Variant = Field(
        default_factory=TopKVariant, description="sparsity: which variant, and its own settings"
    )
    latents: int = Field(896, ge=1, description="number of latents h")
    lr: float = Field(3e-3, gt=0, description="peak learning rate of Adam")
    steps: int = Field(800, ge=1, description="number of training steps")
    batch: int = Field(2048, ge=1, description="cells per step")
    warm_up: float = Field(
        0.05, ge=0, lt=1, description="share of the steps over which lr rises linearly from 0"
    )
    decay: float = Field(
        0.2, ge=0, le=1, description="share of the steps, the last ones, over which lr falls to 0"
    )
    dead_after: float = Field(
        0.05,
        gt=0,
        le=1,
        description="a latent is dead when it has not fired for this share of the steps",
    )
    buffer: int = Field(
        2048,
        ge=1,
        description="MiB of cells kept in memory: the whole split if it fits, else a mixing buffer",
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrainingValues:
        k = getattr(self.variant, "k", None)
        if k is not None and k > self.latents:
            raise ValueError(f"variant.k = {k} is more than latents = {self.latents}; lower it")
        if self.warm_up + self.decay > 1:
            raise ValueError(
                f"warm_up + decay = {self.warm_up + self.decay:g} is more than the whole run; "
                "lower one"
            )
        return self


class SaeTraining(TrainingValues):
    """One SAE to train: one layer, one seed, every value resolved."""

    seed: int = Field(0, ge=0, description="seed of initialisation and of the order of the cells")


PHANTOM_LAYERS: dict[str, dict[str, Any]] = {
    "blocks.14": {"latents": 1152},
    "head": {
        "latents": 2560,
        "lr": 1.5e-3,
        "steps": 400,
        "batch": 1024,
        "dead_after": 0.1,
        "variant": {"k": 32, "k_aux": 256, "aux_weight": 1 / 8},
    },
}


class SaeSettings(TrainingValues):
    """One named SAE over all layers: common values, overrides per layer, seeds."""

    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="one SAE is trained per seed"
    )
    layers: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {layer: dict(own) for layer, own in PHANTOM_LAYERS.items()},
        description="per layer, the values that differ from the common ones",
    )

    @model_validator(mode="after")
    def _layers_resolve(self) -> SaeSettings:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} holds a seed twice; remove one")
        for layer in self.layers:
            try:
                self.training(layer, self.seeds[0])
            except InputError as error:
                raise ValueError(str(error)) from None
        return self

    def training(self, layer: str, seed: int) -> SaeTraining:
        """Return the resolved settings of one layer and one seed.

        Raises
        ------
        InputError
            If the layer's overrides make no valid settings, naming layer and key.
        """
        common = self.model_dump(exclude={"layers", "seeds"})
        resolved = {**_laid_over(common, self.layers.get(layer, {})), "seed": seed}
        try:
            return SaeTraining.model_validate(resolved)
        except ValidationError as error:
            raise InputError(explain(error, f"layers.{layer}")) from None


def _laid_over(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return `common` with `own` laid over it; inside `variant`, key by key.

    A variant of another name starts from its own defaults, not from the common variant's values.
    """
    merged = {**common, **own}
    variant = own.get("variant")
    if isinstance(variant, dict):
        before = common["variant"]
        if variant.get("name", before["name"]) == before["name"]:
            merged["variant"] = {**before, **variant}
    return merged


class QualitySettings(Settings):
    """How an SAE is scored on images it was not trained on."""

    split: Literal["validation", "test", "external"] = Field(
        "test", description="split whose images score the SAE"
    )
    seed: int = Field(0, ge=0, description="seed of the patient bootstrap")
    bootstrap_draws: int = Field(
        200, ge=20, description="patient bootstrap draws behind each 95 % interval"
    )
