"""The plan of vision transformers, and their folders in the form of `transformers`. No torch.

A folder holds ``config.json``, ``model.safetensors`` and often ``preprocessor_config.json``, as the
package `transformers` writes them. This module knows the kinds of models that can be read. A kind
is a row of `KINDS`; nothing else depends on it.

The network first cuts the image into square patches. Each patch is a cell, so the stride is the
patch, and cell 0 begins at pixel 0. Attention makes every cell see the whole image. The class token
and registers are tokens beside the grid.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mammo_sae.encoders.plans.plan import HEAD, POOLED, Layer
from mammo_sae.errors import InputError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PREPROCESSOR = "preprocessor_config.json"
Channels = tuple[float, float, float]
HALF = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Kind:
    """A kind of model of `transformers`: where the parts of the image's network are.

    Attributes
    ----------
    module, model, config
        Module of `transformers.models`, and its classes of the model and of the configuration.
    blocks, norm
        Paths of the list of blocks and of the last norm in the model.
    before
        Name of a norm before the first block, or "".
    rotary
        Name of the module of rotary position embeddings, or "".
    attention
        Name of the module of attention pooling, or "".
    class_token, registers
        Whether the network has a class token; whether its configuration may have registers.
    interpolates
        Whether the embedding needs to be told to interpolate its positions.
    options
        Further arguments of the model's class.
    defaults
        The values of keys that a configuration may leave out.
    normalisation
        Mean and deviation of the input if the folder has no file of its preprocessor.
    """

    module: str
    model: str
    config: str
    blocks: str = "encoder.layer"
    norm: str = "layernorm"
    before: str = ""
    rotary: str = ""
    attention: str = ""
    class_token: bool = True
    registers: bool = False
    interpolates: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, int] = field(default_factory=dict)
    normalisation: tuple[Channels, Channels] = IMAGENET


SIZES = {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 16}
# Model type -> kind. To add one, add a row.
KINDS = {
    "dinov2": Kind(
        module="dinov2.modeling_dinov2",
        model="Dinov2Model",
        config="Dinov2Config",
        defaults={**SIZES, "patch_size": 14},
    ),
    "dinov2_with_registers": Kind(
        module="dinov2_with_registers.modeling_dinov2_with_registers",
        model="Dinov2WithRegistersModel",
        config="Dinov2WithRegistersConfig",
        registers=True,
        defaults={**SIZES, "num_register_tokens": 4},
    ),
    "dinov3_vit": Kind(
        module="dinov3_vit.modeling_dinov3_vit",
        model="DINOv3ViTModel",
        config="DINOv3ViTConfig",
        blocks="model.layer",
        norm="norm",
        rotary="rope_embeddings",
        registers=True,
        defaults={**SIZES, "hidden_size": 384, "num_register_tokens": 0},
    ),
    "siglip": Kind(
        module="siglip.modeling_siglip",
        model="SiglipVisionModel",
        config="SiglipVisionConfig",
        blocks="encoder.layers",
        norm="post_layernorm",
        attention="head",
        class_token=False,
        interpolates=True,
        defaults=SIZES,
        normalisation=(HALF, HALF),
    ),
    "clip": Kind(
        module="clip.modeling_clip",
        model="CLIPVisionModel",
        config="CLIPVisionConfig",
        blocks="encoder.layers",
        norm="post_layernorm",
        before="pre_layrnorm",
        interpolates=True,
        defaults={**SIZES, "patch_size": 32},
        normalisation=(
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
        ),
    ),
    "vit": Kind(
        module="vit.modeling_vit",
        model="ViTModel",
        config="ViTConfig",
        blocks="layers",
        interpolates=True,
        options={"add_pooling_layer": False},
        defaults=SIZES,
        normalisation=(HALF, HALF),
    ),
}
# Model types of the image's part of a model, which are saved without the part for text.
PARTS = {"siglip_vision_model": "siglip", "clip_vision_model": "clip"}
NAME = re.compile(r"vit-([a-z0-9_]+)-patch(\d+)-width(\d+)-depth(\d+)-prefix(\d+)")


@dataclass(frozen=True)
class VisionTransformer:
    """The sizes of a vision transformer: edge of a patch, channels, blocks, tokens beside the grid.

    `kind` is a key of `KINDS`.
    """

    name: str
    kind: str
    patch: int
    width: int
    depth: int
    prefix: int

    @property
    def weights(self) -> int:
        """About the number of weights: 12 c^2 in a block of c channels, patches, positions."""
        return 12 * self.depth * self.width**2 + (3 * self.patch**2 + 1369) * self.width

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order of computation."""
        names = [*(f"blocks.{index}" for index in range(self.depth)), HEAD]
        spatial = [Layer(name, self.width, self.patch, 0, 0) for name in names]
        return (*spatial, Layer(POOLED, self.width, 0, 0, 0))

    def grid_shape(self, layer: str, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of a layer; 0 where the image is too small for a cell."""
        return height // self.patch, width // self.patch

    def largest_map(self, height: int, width: int) -> int:
        """Return the number of values of the largest map of one image: of a block's MLP."""
        return self._tokens(height, width) * 4 * self.width

    def operations(self, height: int, width: int) -> float:
        """Return the multiplications and additions of one forward pass, without activations.

        A block's products with weights take 12 c^2 per token of c channels, and its attention 2 t c
        for t tokens.
        """
        tokens = self._tokens(height, width)
        block = tokens * (12 * self.width**2 + 2 * tokens * self.width)
        return 2.0 * (self.depth * block + tokens * 3 * self.patch**2 * self.width)

    def _tokens(self, height: int, width: int) -> int:
        return (height // self.patch) * (width // self.patch) + self.prefix


@dataclass(frozen=True)
class Folder:
    """A folder with a vision transformer.

    Attributes
    ----------
    path
        Path of the folder.
    kind
        Key of `KINDS`.
    config
        The configuration of the image's network.
    """

    path: Path
    kind: str
    config: dict[str, Any]

    @property
    def architecture(self) -> str:
        """The name of the architecture, which says kind and sizes."""
        row = KINDS[self.kind]
        values = {**row.defaults, **self.config}
        prefix = int(row.class_token) + (values["num_register_tokens"] if row.registers else 0)
        return (
            f"vit-{self.kind}-patch{values['patch_size']}-width{values['hidden_size']}"
            f"-depth{values['num_hidden_layers']}-prefix{prefix}"
        )

    def check_pooling(self, pooling: str) -> None:
        """Check that the model has what a pooling needs.

        Raises
        ------
        InputError
            If it does not. The message names the poolings that it has.
        """
        row = KINDS[self.kind]
        there = ["mean", *(["cls"] if row.class_token else [])]
        if row.attention and self.config.get("vision_use_head", True):
            there.append("attention")
        if pooling not in there:
            raise InputError(
                f"folder {self.path}: models of kind {self.kind} have no pooling {pooling!r}; set "
                f"pooling to {' or '.join(there)}"
            )


@cache
def plan(name: str) -> VisionTransformer:
    """Return the plan of the architecture `name`.

    Raises
    ------
    InputError
        If the name is not of a vision transformer of a known kind.
    """
    found = NAME.fullmatch(name)
    if found is None or found[1] not in KINDS:
        raise InputError(
            f"there is no architecture {name!r}; vision transformers are of the kinds "
            f"{', '.join(KINDS)}"
        )
    return VisionTransformer(name, found[1], *map(int, found.groups()[1:]))


def read_folder(folder: Path) -> Folder:
    """Read the configuration of a folder in the form of `transformers`, which has the weights too.

    Raises
    ------
    InputError
        If the weights are missing, or as `read_configuration` does.
    """
    found = read_configuration(folder)
    if not (folder / WEIGHTS).is_file():
        others = sorted(path.name for path in folder.glob("*.bin"))
        beside = f" but {others[0]}, which is not read because it may run code" if others else ""
        raise InputError(
            f"folder {folder} holds no {WEIGHTS}{beside}; fetch {WEIGHTS}, or write it with "
            "save_pretrained(folder, max_shard_size='100GB') where you trust the model"
        )
    return found


def read_configuration(folder: Path) -> Folder:
    """Read the configuration of a folder in the form of `transformers`.

    Raises
    ------
    InputError
        If the folder or its configuration is missing, if the configuration names code to run, or if
        the model is of a kind that can't be read.
    """
    where = f"folder {folder}"
    if not folder.is_dir():
        raise InputError(f"{where} does not exist; give the folder that holds {CONFIG}")
    content = _json(folder / CONFIG, f"give a folder with {CONFIG} and {WEIGHTS}")
    config = content.get("vision_config", content)
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG}: vision_config is no object; fetch the file again")
    if "auto_map" in content or "auto_map" in config:
        raise InputError(
            f"{folder / CONFIG} names code of its own (auto_map), which is not run; give a model "
            f"of transformers itself: {', '.join(KINDS)}"
        )
    kind = str(content.get("model_type"))
    kind = PARTS.get(kind, kind)
    if kind not in KINDS:
        raise InputError(
            f"{folder / CONFIG} has model_type {kind!r}, which can't be read; give a model of "
            f"{', '.join(KINDS)}"
        )
    _check_sizes(folder / CONFIG, kind, config)
    return Folder(folder, kind, config)


def _check_sizes(path: Path, kind: str, config: Mapping[str, Any]) -> None:
    keys = ["patch_size", "hidden_size", "num_hidden_layers"]
    for key in [*keys, *(["num_register_tokens"] if KINDS[kind].registers else [])]:
        value = config.get(key, KINDS[kind].defaults[key])
        if type(value) is not int or value < (key in keys):
            raise InputError(
                f"{path}: {key} is {value!r}; it must be a whole number, and patches must be "
                "squares"
            )
    edges = config.get("image_size")
    if not KINDS[kind].rotary and isinstance(edges, list) and len(set(edges)) > 1:
        # The package would take the positions for those of a square, sometimes without an error.
        raise InputError(
            f"{path}: image_size is {edges!r}; positions of images that are no squares can't be "
            "interpolated; give a model that was trained on squares"
        )
    if config.get("num_channels", 3) != 3:
        raise InputError(
            f"{path}: num_channels is {config['num_channels']!r}; give a model for images of 3 "
            "channels"
        )


def read_normalisation(folder: Path, kind: str) -> tuple[Channels, Channels]:
    """Return mean and deviation of the network's three input channels, for grey levels / 255.

    They are those of the folder's preprocessor. Without such a file they are those with which
    networks of this kind are published.

    Raises
    ------
    InputError
        If the file is damaged, or scales grey levels in another way.
    """
    path = folder / PREPROCESSOR
    if not path.exists():
        return KINDS[kind].normalisation
    content = _json(path, "fetch it again")
    factor = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1.0
    if not isinstance(factor, int | float) or abs(factor * 255 - 1) > 1e-6:
        raise InputError(
            f"{path}: grey levels are multiplied by {factor}, and only 1/255 can be used; correct "
            "rescale_factor, or convert the model"
        )
    if not content.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = KINDS[kind].normalisation
    found = _channels(content, "image_mean", mean, path), _channels(content, "image_std", std, path)
    if not all(math.isfinite(value) for values in found for value in values) or min(found[1]) <= 0:
        raise InputError(
            f"{path}: images can't be divided by image_std = {list(found[1])} after image_mean = "
            f"{list(found[0])} was subtracted; correct it"
        )
    return found


def _channels(content: Mapping[str, Any], key: str, default: Channels, path: Path) -> Channels:
    """Return the three numbers under `key`."""
    values = content.get(key, default)
    try:
        red, green, blue = map(float, values)
    except (TypeError, ValueError):
        raise InputError(f"{path}: {key} is {values!r}, not three numbers; correct it") from None
    return red, green, blue


def _json(path: Path, advice: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; {advice}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read ({error}); {advice}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no object; {advice}")
    return content
