"""Settings of the encoders: their source, training and use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from mammo_sae.encoders.plans.efficientnet import ArchitectureName
from mammo_sae.encoders.plans.plan import Pooling
from mammo_sae.encoders.plans.resnet import ResNetName
from mammo_sae.encoders.plans.vit import (
    CONFIG,
    PREPROCESSOR,
    WEIGHTS,
    read_configuration,
    read_folder,
)
from mammo_sae.extensions import ENCODERS, or_added
from mammo_sae.settings import PathText, Settings

Augmentation = Literal["none", "vertical_flip", "mammo_clip", "mammo_clip_published"]
# Cohorts with images of VinDr-Mammo: the authors' own, and Mammo-CLIP's version of them.
VINDR = ("vindr", "mammo_clip")


Deviation = Annotated[float, Field(gt=0)]


class Lite0Source(Settings):
    """EfficientNet-Lite0 with ImageNet weights, from the package that contains them."""

    kind: Literal["lite0"] = "lite0"

    @property
    def architecture(self) -> ArchitectureName:
        """Return the name of the architecture."""
        return "efficientnet-lite0"


class PublishedSource(Settings):
    """A file of weights whose terms the user states."""

    sha256: str | None = Field(
        default=None, description="required SHA-256, 64 hexadecimal digits; null: not checked"
    )
    licence: str = Field(default="unknown", description="licence of the weights, for the report")
    forbids: str = Field(default="unknown", description="forbidden uses, for the report")
    data: str = Field(default="unknown", description="pretraining data, for the report")
    seen: tuple[str, ...] = Field(
        default=(),
        description="kinds of cohorts (vindr, cmmd, ...) in the pretraining data; the report's "
        "first page warns if the run's cohort is one of them",
    )


class EfficientNetSource(PublishedSource):
    """A file with a state dict of the package efficientnet-pytorch."""

    kind: Literal["efficientnet"]
    architecture: ArchitectureName = Field(description="architecture of the state dict")
    path: PathText = Field(description="file of the state dict (torch.save)")


class ResNetSource(PublishedSource):
    """A file with a state dict of a ResNet, with torchvision's names."""

    kind: Literal["resnet"]
    architecture: ResNetName = Field(description="architecture of the state dict")
    path: PathText = Field(description="file of the state dict (torch.save or safetensors)")
    mean: tuple[float, float, float] = Field(
        default=(0.485, 0.456, 0.406),
        description="means of the three channels that were subtracted in training, for grey levels "
        "/ 255; the default is ImageNet's",
    )
    std: tuple[Deviation, Deviation, Deviation] = Field(
        default=(0.229, 0.224, 0.225),
        description="deviations by which the centred channels were divided in training",
    )


class VisionTransformerSource(PublishedSource):
    """A vision transformer in the form of `transformers`."""

    pooling: Pooling = Field(
        default="mean",
        description="how the final map becomes the features that the head reads: mean of the "
        "cells; cls: the class token; attention: SigLIP's own attention pooling",
    )


class TransformersSource(VisionTransformerSource):
    """A folder in the form of `transformers` with a vision transformer."""

    kind: Literal["transformers"]
    path: PathText = Field(description="folder with config.json and model.safetensors")

    @property
    def architecture(self) -> str:
        """Return the name of the architecture, read from the folder.

        Raises
        ------
        InputError
            If the folder holds no model that can be read, or if it has no such pooling.
        """
        folder = read_folder(Path(self.path))
        folder.check_pooling(self.pooling)
        return folder.architecture

    @property
    def files(self) -> list[str]:
        """Return the files of the folder that are read."""
        folder = Path(self.path)
        names = [CONFIG, WEIGHTS, *([PREPROCESSOR] if (folder / PREPROCESSOR).exists() else [])]
        return [(folder / name).as_posix() for name in names]


class HubSource(VisionTransformerSource):
    """A vision transformer of the Hugging Face hub, at one commit of its repository."""

    kind: Literal["hub"]
    repository: str = Field(
        pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$",
        description="owner/name of the model; its files are kept in the cache of the package "
        "huggingface_hub (HF_HOME)",
    )
    revision: str = Field(
        pattern="^[0-9a-f]{40}$", description="the commit of the repository, 40 hexadecimal digits"
    )

    @property
    def architecture(self) -> str:
        """Return the name of the architecture, read from the model's configuration.

        Raises
        ------
        InputError
            If the configuration can't be had, if the model can't be read, or if it has no such
            pooling.
        """
        from mammo_sae.encoders.hub_models import configuration_folder

        found = read_configuration(configuration_folder(self.repository, self.revision))
        found.check_pooling(self.pooling)
        return found.architecture


class HeadFile(Settings):
    """Another checkpoint of the same image encoder, with a classifier for other concepts."""

    path: PathText = Field(description="file of the checkpoint")
    sha256: str | None = Field(
        default=None, description="required SHA-256, 64 hexadecimal digits; null: not checked"
    )
    classifier: tuple[str, ...] = Field(
        min_length=1, description="concepts of the classifier's outputs, in order"
    )


class MammoClipSource(Settings):
    """A checkpoint of Mammo-CLIP: pretraining (.tar) or downstream classifier (.pth)."""

    kind: Literal["mammo_clip"]
    architecture: Literal["efficientnet-b2", "efficientnet-b5"] = Field(
        default="efficientnet-b5", description="image encoder of the checkpoint"
    )
    path: PathText = Field(description="file of the checkpoint")
    hub: str | None = Field(
        default=None,
        description="Hugging Face id of the file (owner/repository/path/in/it), downloaded to "
        "`path` if that file is missing; null: no download",
    )
    sha256: str | None = Field(
        default=None, description="required SHA-256, 64 hexadecimal digits; null: not checked"
    )
    classifier: tuple[str, ...] = Field(
        default=(),
        description="concepts of the outputs of the checkpoint's own classifier, in order; it "
        "replaces the linear probe; empty: not used",
    )
    heads: tuple[HeadFile, ...] = Field(
        default=(),
        description="other checkpoints of the same image encoder, whose classifiers are used too",
    )

    @property
    def seen(self) -> tuple[str, ...]:
        """Return the kinds of cohorts in the training data, as far as the file's name shows them.

        Downstream classifiers (.pth) were trained on VinDr-Mammo, and so were checkpoints
        pretrained "with VinDr" (their configuration is pre_train_b5_w_vindr_clip).
        """
        name = f"{self.hub or ''} {self.path}".lower()
        return VINDR if "vindr" in name or self.path.lower().endswith(".pth") else ()

    @model_validator(mode="after")
    def _heads_are_of_other_concepts(self) -> Self:
        named = [*self.classifier, *(name for head in self.heads for name in head.classifier)]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(
                f"classifier and heads name {', '.join(twice)} twice; leave it out of one of them"
            )
        return self


class MammoFmSource(MammoClipSource):
    """A checkpoint of Mammo-FM: image encoder and file format of Mammo-CLIP, other weights."""

    kind: Literal["mammo_fm"]  # type: ignore[assignment]
    architecture: Literal["efficientnet-b5"] = Field(
        default="efficientnet-b5", description="the only image encoder of Mammo-FM"
    )


class VersaMammoSource(Settings):
    """The EfficientNet-B5 of VersaMammo, with the terms and the data of its publishers."""

    kind: Literal["versamammo"]
    path: PathText = Field(description="file of the state dict (.pth)")
    sha256: str | None = Field(
        default=None, description="required SHA-256, 64 hexadecimal digits; null: not checked"
    )

    @property
    def architecture(self) -> ArchitectureName:
        """Return the name of the architecture."""
        return "efficientnet-b5"

    @property
    def seen(self) -> tuple[str, ...]:
        """Return the kinds of cohorts that its publishers name as pretraining data."""
        return ("embed", "rsna", *VINDR)


class RandomSource(Settings):
    """Seeded random weights, the control for claims about trained encoders."""

    kind: Literal["random"]
    architecture: ArchitectureName = Field(description="architecture of the network")
    seed: int = Field(default=0, ge=0, description="seed of the weights")


Source = Annotated[
    Lite0Source
    | EfficientNetSource
    | ResNetSource
    | TransformersSource
    | HubSource
    | MammoClipSource
    | MammoFmSource
    | VersaMammoSource
    | RandomSource,
    Field(discriminator="kind"),
]
Source = or_added(Source, ENCODERS)  # type: ignore[misc]


class PretrainedSettings(Settings):
    """An encoder that is not trained further, with a linear probe as its head."""

    kind: Literal["pretrained"] = "pretrained"
    source: Source = Field(default=Lite0Source(), description="source of the weights")
    base: str | None = Field(
        default=None,
        description="for weights published as fine-tuned: name of the pretrained encoder they "
        "started from, for matching latents; null: none",
    )

    @property
    def architecture(self) -> str:
        """Return the name of the architecture."""
        return self.source.architecture


class FastRecipe(Settings):
    """Fine-tuning in minutes: short cycles, and a head that learns faster than the network."""

    kind: Literal["fast"] = "fast"
    epochs: int = Field(
        default=4, ge=1, description="passes over the training split in one cycle of the rate"
    )
    most_cycles: int = Field(
        default=4,
        ge=1,
        description="largest number of cycles; training ends after an earlier cycle if every "
        "concept has been learnt",
    )
    learnt: float = Field(
        default=0.99,
        gt=0.5,
        le=1,
        description="AUROC over the training images at which a concept counts as learnt",
    )
    batch_size: int = Field(default=16, ge=1, description="images per forward pass")
    accumulate: int = Field(default=1, ge=1, description="forward passes per step")
    lr: float = Field(default=3e-4, gt=0, description="peak learning rate of the network")
    head_lr: float = Field(default=3e-3, gt=0, description="peak learning rate of the head")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's decoupled weight decay")
    warmup: float = Field(
        default=0.3, gt=0, lt=1, description="share of the steps in which the rate rises"
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="epochs without a better mean AUROC on the validation split after which "
        "training ends with the best epoch's weights; null: all epochs, the last one's weights",
    )
    augmentation: Augmentation = Field(
        default="vertical_flip",
        description="none; vertical_flip: half of the images, or cached maps, are flipped; "
        "mammo_clip: flips, affine and elastic maps, of images only; mammo_clip_published: "
        "the same as the published call executes it, with constant rotation, shear and shift",
    )
    seed: int = Field(default=0, ge=0, description="seed of order and augmentation")


class MammoClipRecipe(FastRecipe):
    """Mammo-CLIP's downstream training (https://github.com/batmanlab/Mammo-CLIP)."""

    kind: Literal["mammo_clip"]  # type: ignore[assignment]
    epochs: int = Field(
        default=30, ge=1, description="passes over the training split in one cycle of the rate"
    )
    most_cycles: int = Field(default=1, ge=1, description="as in the fast recipe")
    batch_size: int = Field(default=8, ge=1, description="images per forward pass")
    lr: float = Field(default=5e-5, gt=0, description="peak learning rate of the network")
    head_lr: float = Field(default=5e-5, gt=0, description="peak learning rate of the head")
    warmup: float = Field(
        default=1 / 30, gt=0, lt=1, description="share of the steps in which the rate rises"
    )
    augmentation: Augmentation = Field(default="mammo_clip", description="as in the fast recipe")


def _recipe_kind(recipe: Any) -> Any:
    """Return the kind of a recipe. A recipe without a kind is of the kind `fast`."""
    if isinstance(recipe, dict):
        return recipe.get("kind", "fast")
    return getattr(recipe, "kind", None)


Recipe = Annotated[
    Annotated[FastRecipe, Tag("fast")] | Annotated[MammoClipRecipe, Tag("mammo_clip")],
    Discriminator(_recipe_kind),
]


class FinetunedSettings(Settings):
    """An encoder and its head, trained further on the concepts of the training split."""

    kind: Literal["finetuned"]
    base: str = Field(description="name of the pretrained encoder from which training starts")
    freeze: str | None = Field(
        default=None,
        description="last frozen layer, read from the base's embeddings (`blocks.4`); "
        "null: the whole network is trained, from the images",
    )
    recipe: Recipe = Field(
        default=FastRecipe(), description="training recipe: weighted binary cross-entropy, AdamW"
    )

    @model_validator(mode="after")
    def _cached_maps_only_flip(self) -> Self:
        augmentation = self.recipe.augmentation
        if self.freeze is not None and augmentation.startswith("mammo_clip"):
            raise ValueError(
                f"recipe.augmentation {augmentation} changes images, but with freeze the network "
                "starts from stored maps; set freeze to null or augmentation to vertical_flip"
            )
        return self


EncoderSettings = Annotated[
    PretrainedSettings | FinetunedSettings,
    Field(discriminator="kind"),
]


class ExtractionSettings(Settings):
    """How an encoder is run over images."""

    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="type of weights and maps while the network runs"
    )


class LinearProbeSettings(Settings):
    """The linear probe on a pretrained encoder: logistic regression on standardised features."""

    c: float = Field(
        default=0.01, gt=0, description="inverse strength of the L2 penalty (scikit-learn's C)"
    )
    max_iterations: int = Field(
        default=1000, ge=1, description="largest number of passes over the features"
    )


class EvaluationSettings(Settings):
    """How an encoder's predictions are scored."""

    bootstrap_draws: int = Field(
        default=1000, ge=20, description="patient-bootstrap draws of each 95 % interval"
    )
    seed: int = Field(default=0, ge=0, description="seed of the patient bootstrap")
