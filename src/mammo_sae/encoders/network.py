"""The files of an encoder: its weights, and their description."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from mammo_sae.encoders.architectures import architecture
from mammo_sae.encoders.description import DIGEST, EncoderDescription, read_description
from mammo_sae.encoders.networks.network import Network
from mammo_sae.errors import InputError, first_line
from mammo_sae.stores.checksums import file_digest
from mammo_sae.stores.publish import atomic_file, read_json, write_json

WEIGHTS = "encoder.safetensors"
DESCRIPTION = "encoder.json"
CLASSIFIER = "classifier."


def build(description: EncoderDescription) -> Network:
    """Return the network of an encoder. Its weights are not initialised.

    Raises
    ------
    InputError
        If there is no such architecture.
    """
    architecture(description.architecture)
    family = description.architecture.partition("-")[0]
    if family == "efficientnet":
        # An import that a step's digest covers. Other descriptions contain a digest of their own.
        from mammo_sae.encoders.networks import efficientnet

        return efficientnet.EfficientNet(description)
    network: Network = import_module(f"mammo_sae.encoders.networks.{family}").NETWORK(description)
    return network


def save_encoder(
    state: Mapping[str, Tensor], description: EncoderDescription, weights: Path, details: Path
) -> None:
    """Write an encoder. Its description is written last: an encoder that has one is complete."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with atomic_file(weights) as path:
        # `safetensors.torch.save_file` would make the file readable by its owner only.
        path.write_bytes(save(tensors))
    write_json(details, {**description.model_dump(mode="json"), DIGEST: file_digest(weights)})


def load_description(directory: Path) -> EncoderDescription:
    """Read the description of the encoder in `directory`.

    Raises
    ------
    InputError
        If the file is missing or damaged. The message names it.
    """
    return read_description(directory / DESCRIPTION)


def load_classifier(directory: Path) -> tuple[tuple[str, ...], Tensor, Tensor] | None:
    """Read the classifier that was published with an encoder's weights, or return None.

    Returns
    -------
    The classifier's concepts, weight [c, d] and bias [c].

    Raises
    ------
    InputError
        If a file is missing or damaged. The message names it.
    """
    concepts = load_description(directory).classifier
    if not concepts:
        return None
    path = directory / WEIGHTS
    try:
        state = _weights(directory)
        return concepts, state[f"{CLASSIFIER}weight"], state[f"{CLASSIFIER}bias"]
    except Exception as error:
        raise _damaged(path, error) from None


def load_encoder(directory: Path) -> Network:
    """Read the encoder in `directory`: on the CPU, float32, without gradients.

    Raises
    ------
    InputError
        If a file is missing or damaged. The message names it.
    """
    network = build(load_description(directory))
    path = directory / WEIGHTS
    try:
        state = _weights(directory)
        network.load_state_dict({k: v for k, v in state.items() if not k.startswith(CLASSIFIER)})
    except Exception as error:
        raise _damaged(path, error) from None
    return network.eval().requires_grad_(False)


def _weights(directory: Path) -> dict[str, Tensor]:
    """Read the weights in `directory` and compare their digest with the description's."""
    path = directory / WEIGHTS
    if file_digest(path) != read_json(directory / DESCRIPTION).get(DIGEST):
        raise ValueError(f"it is not the file that {DESCRIPTION} describes")
    return load_file(path)


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} is missing or damaged ({first_line(error)}); "
        "delete it and run the step that makes the encoder again"
    )
