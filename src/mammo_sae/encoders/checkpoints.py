"""Reads published weights safely and converts them to the form of `network`.

No code of a file is run (`weights`). The names and shapes of its tensors are compared with the
architecture's before any of them is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mammo_sae.encoders.plans.efficientnet import plan
from mammo_sae.errors import InputError
from mammo_sae.stores.checksums import file_digest
from mammo_sae.weights import files
from mammo_sae.weights.unpickling import Foreign

BATCH_NORM_EPSILON = 1e-3  # of both packages; PyTorch's default is 1e-5
NORM = ("weight", "bias", "running_mean", "running_var")
LEVELS = 3  # depth to which nested dicts are searched
NAMED = 3  # largest number of keys that a message names

Shape = tuple[int, ...]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits.

    Raises
    ------
    InputError
        If there is no such file, or it is a folder.
    """
    try:
        return file_digest(path)
    except FileNotFoundError:
        raise InputError(f"checkpoint {path} does not exist; correct its path") from None
    except IsADirectoryError:
        raise InputError(f"checkpoint {path} is a folder; give the file of the weights") from None


def check_sha256(path: Path, expected: str | None) -> str:
    """Return the SHA-256 of a file.

    Raises
    ------
    InputError
        If the file is missing, or `expected` is given and differs.
    """
    found = sha256(path)
    if expected is not None and found != expected.lower():
        raise InputError(
            f"checkpoint {path} has SHA-256 {found}, not {expected.lower()} as configured; "
            "fetch the right file or correct sha256"
        )
    return found


@dataclass(frozen=True)
class Form:
    """The names that a network's tensors have in files.

    Attributes
    ----------
    of
        Who gives these names, for error messages.
    anchor
        Name of the first tensor.
    starts
        The beginnings of the names.
    expected
        Names and shapes of all tensors.
    """

    of: str
    anchor: str
    starts: tuple[str, ...]
    expected: Mapping[str, Shape]


@dataclass(frozen=True)
class Found:
    """An encoder's tensors in a checkpoint.

    `state` has the tensors by their names in the form `form`. `around` is the state dict of the
    file in which each of these names has the prefix `prefix`. `content` is the whole checkpoint.
    """

    state: dict[str, Any]
    prefix: str
    around: Mapping[Any, Any]
    content: Any
    form: Form


def find(path: Path, forms: Sequence[Form]) -> Found:
    """Find the tensors of an architecture in a checkpoint, at any place and with any prefix.

    State dicts are searched in the file itself and in its nested dicts (``model``, ``state_dict``,
    ...). The encoder is recognised by the names of its tensors, either unchanged or all with one
    prefix (``image_encoder.``, ``module.``, ``model.image_encoder.``).

    Parameters
    ----------
    path
        A file of torch.save, pickle or safetensors.
    forms
        The names that the architecture's tensors may have.

    Raises
    ------
    InputError
        If the file is damaged, or holds no such encoder, or several encoders that differ.
    """
    where = f"checkpoint {path}"
    content = files.read_weights(path)
    found: list[tuple[int, Found]] = []
    states = list(_state_dicts(content))
    for state, form in product(states, forms):
        names = [key for key in state if isinstance(key, str)]
        prefixes = {key.removesuffix(form.anchor) for key in names if key.endswith(form.anchor)}
        for prefix in sorted(prefixes):
            starts = tuple(prefix + start for start in form.starts)
            inside = {
                key.removeprefix(prefix): state[key] for key in names if key.startswith(starts)
            }
            count = sum(key in inside for key in form.expected)
            found.append((count, Found(inside, prefix, state, content, form)))
    if not found:
        raise InputError(f"{where} {_nothing(content, states, forms[0])}")
    most = max(count for count, _ in found)
    best = [one for count, one in found if count == most]
    for other in best[1:]:
        if not _same(best[0].state, other.state):
            named = " and ".join(repr(one.prefix + one.form.anchor) for one in best[:2])
            raise InputError(
                f"{where} holds {len(best)} encoders that differ ({named}); save the state dict of "
                "the one you mean with torch.save and give that file"
            )
    for key, value in best[0].state.items():
        if isinstance(value, Foreign):
            raise InputError(
                f"{where}: {best[0].prefix}{key} is of {value.name}, which is not read; save it as "
                "a plain tensor where that library is installed"
            )
    tensors = {key: value for key, value in best[0].state.items() if torch.is_tensor(value)}
    return replace(best[0], state=tensors)


def _state_dicts(content: Any) -> Iterator[Mapping[Any, Any]]:
    """Yield every dict, down to the third level, that has tensors or placeholders of tensors."""
    level = [content]
    seen: set[int] = set()
    for _ in range(LEVELS):
        below = []
        for value in level:
            if not isinstance(value, dict) or id(value) in seen:
                continue
            seen.add(id(value))
            if any(torch.is_tensor(item) or isinstance(item, Foreign) for item in value.values()):
                yield value
            below += [item for item in value.values() if isinstance(item, dict)]
        level = below


def _nothing(content: Any, states: Sequence[Mapping[Any, Any]], form: Form) -> str:
    """Return words for a message: what a checkpoint without the network holds, what to do."""
    do = "save model.state_dict() with torch.save and give that file"
    if isinstance(content, Foreign):
        return f"holds an object of {content.name}, not weights; where its code is, {do}"
    if not isinstance(content, dict):
        return f"holds a {type(content).__name__}, no state dict; {do}"
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Foreign):
            return f"has an object of {content[key].name} as {key!r}; where its code is, {do}"
    tensors = [key for state in states for key in state if torch.is_tensor(state[key])]
    held = _named([repr(key)[:60] for key in tensors]) if tensors else "no tensors"
    return (
        f"holds {held}, but no {form.anchor} behind any prefix: it is of no network of {form.of}; "
        "give a checkpoint of such a network"
    )


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.is_tensor(value) and torch.is_tensor(other[key]) and torch.equal(value, other[key])
        for key, value in one.items()
    )


def folded(path: Path, name: str) -> dict[str, Tensor]:
    """Return the tensors of an architecture in a checkpoint as `network.Network` has them.

    Raises
    ------
    InputError
        For the same reasons as in `find` and `fold`.
    """
    return fold(find(path, [efficientnet(name)]).state, name, f"checkpoint {path}")


def efficientnet(name: str) -> Form:
    """Return the names that the tensors of an EfficientNet have in efficientnet-pytorch."""
    return Form("the package efficientnet-pytorch", "_conv_stem.weight", ("_",), _expected(name))


def fold(state: Mapping[str, Tensor], name: str, where: str) -> dict[str, Tensor]:
    """Return a state dict of `network.Network`, made from one of the packages by folding BatchNorm.

    A convolution w followed by BatchNorm (g, b, mean, var) equals the convolution w * s with bias
    b - mean * s, where s = g / sqrt(var + epsilon). This is computed in float64.

    Parameters
    ----------
    state
        Tensors named as in efficientnet-pytorch (``_blocks.0._depthwise_conv.weight``). A
        classifier (``_fc``) is optional and ignored.
    name
        The expected architecture.
    where
        Name of the state dict in error messages.

    Raises
    ------
    InputError
        If keys are missing, unexpected or of a wrong shape, or weights are not finite.
    """
    check_keys(state, _expected(name), where, optional=("_fc.",))
    folded: dict[str, Tensor] = {}
    for ours, convolution, norm in _folds(name):
        weight, bias = fold_norm(state, convolution, norm, BATCH_NORM_EPSILON)
        pointwise = ours.endswith((".expand", ".project")) or ours == "head"
        folded[f"{ours}.weight"] = weight[:, :, 0, 0] if pointwise else weight
        folded[f"{ours}.bias"] = bias
    for index, block in enumerate(plan(name).blocks):
        if block.squeezed is not None:
            for gate in ("reduce", "expand"):
                theirs = f"_blocks.{index}._se_{gate}"
                ours = f"blocks.{index}.gates.{gate}"
                folded[f"{ours}.weight"] = state[f"{theirs}.weight"].float()[:, :, 0, 0]
                folded[f"{ours}.bias"] = state[f"{theirs}.bias"].float()
    check_finite(folded, where)
    return folded


def fold_norm(
    state: Mapping[str, Tensor], convolution: str, norm: str, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution with the BatchNorm after it, computed in float64."""
    weight = state[f"{convolution}.weight"].double()
    scale, shift, mean, var = (state[f"{norm}.{part}"].double() for part in NORM)
    scale = scale / torch.sqrt(var + epsilon)
    return (weight * scale.reshape(-1, 1, 1, 1)).float(), (shift - mean * scale).float()


def check_finite(folded: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights with NaN or infinity.

    Raises
    ------
    InputError
        If a value is not finite. The message names its tensor.
    """
    for key, value in folded.items():
        if not torch.isfinite(value).all():
            raise InputError(f"{where}: NaN or infinity in {key}; fetch the checkpoint again")


def check_keys(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Shape],
    where: str,
    optional: tuple[str, ...] = (),
) -> None:
    """Refuse a state dict whose names or shapes differ from those that a network needs.

    Raises
    ------
    InputError
        If keys are missing, unexpected or of a wrong shape. The message names the first few.
    """
    found = {
        key: value
        for key, value in state.items()
        if not key.startswith(optional) and not key.endswith(".num_batches_tracked")
    }
    problems = []
    for what, keys in (
        ("lacks", [key for key in expected if key not in found]),
        ("has unexpected", [key for key in found if key not in expected]),
    ):
        if keys:
            problems.append(f"{what} {_named(keys)}")
    wrong = [
        f"{key} of shape {tuple(found[key].shape)} instead of {shape}"
        for key, shape in expected.items()
        if key in found and tuple(found[key].shape) != shape
    ]
    if wrong:
        problems.append(f"has {_named(wrong)}")
    if problems:
        raise InputError(
            f"{where} {'; '.join(problems)}: it is of another architecture or incomplete; "
            "correct architecture or path"
        )
    for key in expected:
        if not found[key].is_floating_point():
            kind = str(found[key].dtype).removeprefix("torch.")
            raise InputError(f"{where}: {key} is of {kind}; save the weights as float32")


def _named(keys: Sequence[str]) -> str:
    rest = len(keys) - NAMED
    return ", ".join(keys[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _folds(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield, for each BatchNorm to fold: our name, the package's convolution and BatchNorm."""
    yield "stem", "_conv_stem", "_bn0"
    for index, block in enumerate(plan(name).blocks):
        ours, theirs = f"blocks.{index}", f"_blocks.{index}"
        if block.expanded != block.inputs:
            yield f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
        yield f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
        yield f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2"
    yield "head", "_conv_head", "_bn1"


def _expected(name: str) -> dict[str, Shape]:
    """Return key and shape of every tensor in a state dict of efficientnet-pytorch, in order."""
    network = plan(name)
    found: dict[str, Shape] = {}

    def convolution(key: str, norm: str, shape: Shape) -> None:
        found[f"{key}.weight"] = shape
        for part in NORM:
            found[f"{norm}.{part}"] = shape[:1]

    kernel = network.stem.kernel
    convolution("_conv_stem", "_bn0", (network.stem_channels, 3, kernel, kernel))
    for index, block in enumerate(network.blocks):
        key, kernel = f"_blocks.{index}", block.depthwise.kernel
        if block.expanded != block.inputs:
            shape = (block.expanded, block.inputs, 1, 1)
            convolution(f"{key}._expand_conv", f"{key}._bn0", shape)
        convolution(f"{key}._depthwise_conv", f"{key}._bn1", (block.expanded, 1, kernel, kernel))
        if block.squeezed is not None:
            for gate, shape in (
                ("_se_reduce", (block.squeezed, block.expanded, 1, 1)),
                ("_se_expand", (block.expanded, block.squeezed, 1, 1)),
            ):
                found[f"{key}.{gate}.weight"] = shape
                found[f"{key}.{gate}.bias"] = shape[:1]
        shape = (block.outputs, block.expanded, 1, 1)
        convolution(f"{key}._project_conv", f"{key}._bn2", shape)
    convolution("_conv_head", "_bn1", (network.head_channels, network.blocks[-1].outputs, 1, 1))
    return found
