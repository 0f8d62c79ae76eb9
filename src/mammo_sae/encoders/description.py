"""The description of an encoder, kept as JSON next to its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from mammo_sae.encoders.plans.plan import Pooling
from mammo_sae.settings import Settings, parse_settings
from mammo_sae.stores.publish import read_json

DIGEST = "digest"  # key of the description: SHA-256 of the weights


class Normalisation(Settings):
    """How grey levels of an image become the network's three equal input channels."""

    scale: Literal["full", "image"] = Field(
        description="full: grey level / 255; image: each image's own minimum to 0, maximum to 1"
    )
    mean: tuple[float, float, float] = Field(description="subtracted from each scaled channel")
    std: tuple[float, float, float] = Field(description="divides each centred channel")


# As documented by https://github.com/lukemelas/EfficientNet-PyTorch and its lite variants.
IMAGENET = Normalisation(scale="full", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
IMAGENET_DATA = "ImageNet-1k (1.28 million natural images, 1,000 classes)"
# https://github.com/batmanlab/Mammo-CLIP
MAMMO_CLIP = Normalisation(scale="image", mean=(0.3089279,) * 3, std=(0.25053555408335154,) * 3)


class EncoderDescription(Settings):
    """An encoder's architecture, input and origin."""

    kind: Literal["pretrained", "finetuned"] = Field(
        description="pretrained: weights as published; finetuned: trained further on the concepts"
    )
    architecture: str = Field(description="architecture of the weights")
    normalisation: Normalisation = Field(description="how pixels become the network's input")
    cached: str | None = Field(
        default=None,
        description="layer whose map is rounded to float16 inside the network, as it was when "
        "fine-tuning read it from a store; null: none",
    )
    classifier: tuple[str, ...] = Field(
        default=(),
        description="concepts predicted by the weights' own classifier, which is stored beside "
        "them; empty: no classifier",
    )
    source: str = Field(description="source of the weights")
    licence: str = Field(description="licence of the weights")
    forbids: str = Field(default="unknown", description="what the licence forbids")
    data: str = Field(description="training data of the weights")
    sha256: str | None = Field(
        default=None, description="SHA-256 of the file of the weights; null: no file"
    )
    pooling: Pooling = Field(
        default="mean",
        description="how the map of the layer `head` becomes the features: mean of its cells; cls: "
        "its class token; attention: the network's own attention pooling",
    )
    parameters: dict[str, Any] = Field(
        default={}, description="what the name of the architecture does not say of the network"
    )
    software: dict[str, str] = Field(
        default={},
        description="digest of the code and versions of the packages that run the network; if they "
        "change, all results of the encoder are stale",
    )

    @model_serializer(mode="wrap")
    def _without_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out newer keys with their defaults, so that older encoders keep their files."""
        content: dict[str, Any] = write(self)
        for key in ("pooling", "parameters", "software"):
            if content[key] == type(self).model_fields[key].default:
                del content[key]
        return content


def read_description(path: Path) -> EncoderDescription:
    """Read an ``encoder.json``.

    Raises
    ------
    InputError, StoreError
        If the file is missing or damaged. The message names it.
    """
    content = read_json(path)
    content.pop(DIGEST, None)
    return parse_settings(EncoderDescription, json.dumps(content), str(path))
