"""Reading weights as others publish them, safely, into the form that `network` runs.

A file is read with torch's restricted unpickler alone; its keys and shapes are compared with the
architecture's before anything is used.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mammo_sae.encoders.architectures import architecture
from mammo_sae.errors import InputError

BATCH_NORM_EPSILON = 1e-3  # of both packages; PyTorch's own default is 1e-5
NORM = ("weight", "bias", "running_mean", "running_var")
NAMED = 3  # offending keys named in a message

Shape = tuple[int, ...]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits.

    Raises
    ------
    InputError
        If there is no such file.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"checkpoint {path} does not exist; correct its path") from None


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


def read_pickle(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """Read what `torch.save` wrote: tensors, plain containers, and the globals `allowed`.

    Raises
    ------
    InputError
        If the file is damaged, or holds anything else; nothing of it is run.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"checkpoint {path} does not exist; correct its path") from None
    except pickle.UnpicklingError as error:
        refused = re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", str(error))
        if refused is None:
            raise InputError(
                f"checkpoint {path} is damaged, or not a file of torch.save; fetch it again"
            ) from None
        raise InputError(
            f"checkpoint {path} holds {refused[1]}, which could run code and is refused; where "
            "you trust it, save its weights alone (torch.save(checkpoint['model'], ...)) and give "
            "that file"
        ) from None
    except (RuntimeError, EOFError, ValueError, LookupError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"checkpoint {path} is damaged ({reason}); fetch it again") from None


def fold(state: Mapping[str, Tensor], name: str, where: str) -> dict[str, Tensor]:
    """Turn a state dict of the packages into one of `network.Network`, BatchNorm folded.

    A convolution w followed by BatchNorm (g, b, mean, var) is the convolution w * s with bias
    b - mean * s, where s = g / sqrt(var + epsilon); computed in float64.

    Parameters
    ----------
    state
        Names as in efficientnet-pytorch (``_blocks.0._depthwise_conv.weight``). A classifier
        (``_fc``) is not needed and ignored.
    name
        The architecture the state dict should be of.
    where
        What to call the state dict in errors.

    Raises
    ------
    InputError
        Naming missing, unexpected and mis-shaped keys.
    """
    check_keys(state, _expected(name), where, optional=("_fc.",))
    folded: dict[str, Tensor] = {}
    for ours, convolution, norm in _folds(name):
        weight = state[f"{convolution}.weight"].double()
        scale, shift, mean, var = (state[f"{norm}.{part}"].double() for part in NORM)
        scale = scale / torch.sqrt(var + BATCH_NORM_EPSILON)
        weight = weight * scale.reshape(-1, 1, 1, 1)
        pointwise = ours.endswith((".expand", ".project")) or ours == "head"
        folded[f"{ours}.weight"] = (weight[:, :, 0, 0] if pointwise else weight).float()
        folded[f"{ours}.bias"] = (shift - mean * scale).float()
    for index, block in enumerate(architecture(name).blocks):
        if block.squeezed is not None:
            for gate in ("reduce", "expand"):
                theirs = f"_blocks.{index}._se_{gate}"
                ours = f"blocks.{index}.gates.{gate}"
                folded[f"{ours}.weight"] = state[f"{theirs}.weight"].float()[:, :, 0, 0]
                folded[f"{ours}.bias"] = state[f"{theirs}.bias"].float()
    for key, value in folded.items():
        if not torch.isfinite(value).all():
            raise InputError(f"{where}: NaN or infinity in {key}; fetch the checkpoint again")
    return folded


def check_keys(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Shape],
    where: str,
    optional: tuple[str, ...] = (),
) -> None:
    """Compare names and shapes of a state dict with what a network needs.

    Raises
    ------
    InputError
        Naming the first few missing, unexpected and mis-shaped keys.
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


def _named(keys: Sequence[str]) -> str:
    rest = len(keys) - NAMED
    return ", ".join(keys[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _folds(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield (our name, their convolution, their BatchNorm) of every folded pair."""
    yield "stem", "_conv_stem", "_bn0"
    for index, block in enumerate(architecture(name).blocks):
        ours, theirs = f"blocks.{index}", f"_blocks.{index}"
        if block.expanded != block.inputs:
            yield f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
        yield f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
        yield f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2"
    yield "head", "_conv_head", "_bn1"


def _expected(name: str) -> dict[str, Shape]:
    """Return key and shape of all that a state dict of the packages must hold, in its order."""
    plan = architecture(name)
    found: dict[str, Shape] = {}

    def convolution(key: str, norm: str, shape: Shape) -> None:
        found[f"{key}.weight"] = shape
        for part in NORM:
            found[f"{norm}.{part}"] = shape[:1]

    kernel = plan.stem.kernel
    convolution("_conv_stem", "_bn0", (plan.stem_channels, 3, kernel, kernel))
    for index, block in enumerate(plan.blocks):
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
    convolution("_conv_head", "_bn1", (plan.head_channels, plan.blocks[-1].outputs, 1, 1))
    return found
