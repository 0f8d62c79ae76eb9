"""A file with a state dict of a ResNet, with the names of torchvision.

The names may be those of torchvision's network (GMIC's network of patches has them too), of its
parts in a row (``nn.Sequential``, as in RadImageNet's files), or those that Mirai gives the same
parts. They may stand behind any prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from mammo_sae.digests import code_digest
from mammo_sae.encoders import checkpoints
from mammo_sae.encoders.checkpoints import NORM, Form, Shape
from mammo_sae.encoders.description import EncoderDescription, Normalisation
from mammo_sae.encoders.networks import resnet
from mammo_sae.encoders.plans.resnet import STEM, STEM_CHANNELS, plan

if TYPE_CHECKING:
    from mammo_sae.encoders.settings import ResNetSource

BATCH_NORM_EPSILON = 1e-5  # PyTorch's default, which torchvision uses
# Parts of torchvision's network -> their numbers in a row: a ReLU is 2, and a pooling is 3.
NUMBERS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def read(source: ResNetSource) -> tuple[dict[str, Tensor], EncoderDescription]:
    """Return the weights and the description of a source."""
    path = Path(source.path)
    digest = checkpoints.check_sha256(path, source.sha256)
    return read_weights(path, source.architecture), EncoderDescription(
        kind="pretrained",
        architecture=source.architecture,
        normalisation=Normalisation(scale="full", mean=source.mean, std=source.std),
        source=path.name,
        licence=source.licence,
        forbids=source.forbids,
        data=source.data,
        sha256=digest,
        software={resnet.__name__: code_digest(resnet.__name__)},
    )


def read_weights(path: Path, name: str) -> dict[str, Tensor]:
    """Return the weights of a file as `mammo_sae.encoders.networks.resnet` has them.

    Raises
    ------
    InputError
        If the file is damaged, or holds no ResNet of that architecture.
    """
    where = f"checkpoint {path}"
    folds = _folds(name)
    expected: dict[str, Shape] = {}
    for convolution, norm, shape in folds.values():
        expected[f"{convolution}.weight"] = shape
        expected |= {f"{norm}.{part}": shape[:1] for part in NORM}
    # A way to name the parts -> the beginnings of its names.
    ways: dict[Callable[[str], str], tuple[str, ...]] = {
        str: (*NUMBERS, "fc"),
        _numbered: tuple(NUMBERS.values()),
        _mirais: ("downsampler.", *(f"layer{stage}_" for stage in range(1, 5))),
    }
    forms = [
        Form(
            "torchvision's ResNets",
            way("conv1.weight"),
            starts,
            {way(key): shape for key, shape in expected.items()},
        )
        for way, starts in ways.items()
    ]
    found = checkpoints.find(path, forms)
    named = dict(zip(found.form.expected, expected, strict=True))
    state = {named.get(key, key): value for key, value in found.state.items()}
    checkpoints.check_keys(state, expected, where, optional=("fc.",))
    folded: dict[str, Tensor] = {}
    for ours, (convolution, norm, _) in folds.items():
        weight, bias = checkpoints.fold_norm(state, convolution, norm, BATCH_NORM_EPSILON)
        folded |= {f"{ours}.weight": weight, f"{ours}.bias": bias}
    checkpoints.check_finite(folded, where)
    return folded


def _numbered(key: str) -> str:
    part, dot, rest = key.partition(".")
    return f"{NUMBERS[part]}{dot}{rest}"


def _mirais(key: str) -> str:
    """Return the name that Mirai gives a part: `downsampler.conv1`, `layer1_0.conv1`."""
    part, _, rest = key.partition(".")
    return f"{part}_{rest}" if part.startswith("layer") else f"downsampler.{key}"


def _folds(name: str) -> dict[str, tuple[str, str, Shape]]:
    """Return our name of each convolution -> torchvision's, that of its BatchNorm, its shape."""
    found: dict[str, tuple[str, str, Shape]] = {}
    found["stem"] = ("conv1", "bn1", (STEM_CHANNELS, 3, STEM.kernel, STEM.kernel))
    for index, block in enumerate(plan(name).blocks):
        ours, theirs = f"blocks.{index}", f"layer{block.stage}.{block.place}"
        for number, (geometry, inputs, outputs) in enumerate(block.convolutions):
            shape = (outputs, inputs, geometry.kernel, geometry.kernel)
            found[f"{ours}.convolutions.{number}"] = (
                f"{theirs}.conv{number + 1}",
                f"{theirs}.bn{number + 1}",
                shape,
            )
        if block.shortcut is not None:
            shape = (block.shortcut[2], block.shortcut[1], 1, 1)
            found[f"{ours}.shortcut"] = (f"{theirs}.downsample.0", f"{theirs}.downsample.1", shape)
    return found
