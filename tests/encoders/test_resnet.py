from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as library
from torch import nn

from batch_norms import draw_batch_norms
from mammo_sae.encoders import import_encoder
from mammo_sae.encoders.architectures import architecture, layer_names, layers
from mammo_sae.encoders.description import IMAGENET, EncoderDescription
from mammo_sae.encoders.network import build, load_description, load_encoder
from mammo_sae.encoders.networks.network import Network, to_map
from mammo_sae.encoders.settings import PretrainedSettings, ResNetSource
from mammo_sae.errors import InputError

NAMES = ["resnet-18", "resnet-50"]
# Parts of torchvision's network in a row, as RadImageNet's files number them.
ROW = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}


def reference(name: str) -> nn.Module:
    """A ResNet of `transformers`, with weights and statistics like those of a trained network."""
    torch.manual_seed(0)
    basic = name == "resnet-18"
    network = library.ResNetModel(
        library.ResNetConfig(
            layer_type="basic" if basic else "bottleneck",
            depths=[2, 2, 2, 2] if basic else [3, 4, 6, 3],
            hidden_sizes=[64, 128, 256, 512] if basic else [256, 512, 1024, 2048],
        )
    )
    draw_batch_norms(network)
    return network.eval()


def torchvisions(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of `transformers` by the names of torchvision."""
    named = {}
    for key, value in state.items():
        if found := re.fullmatch(r"embedder\.embedder\.(convolution|normalization)\.(.+)", key):
            name = f"{'conv' if found[1] == 'convolution' else 'bn'}1.{found[2]}"
        else:
            found = re.fullmatch(
                r"encoder\.stages\.(\d)\.layers\.(\d)\.(shortcut|layer\.(\d))\."
                r"(convolution|normalization)\.(.+)",
                key,
            )
            part = ("conv", "bn")[found[5] == "normalization"]
            number = f".{part}{int(found[4]) + 1}" if found[4] else None
            place = number or f".downsample.{int(part == 'bn')}"
            name = f"layer{int(found[1]) + 1}.{found[2]}{place}.{found[6]}"
        named[name] = value
    return named


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, tuple[nn.Module, Path]]:
    """Name -> the reference network, and its file with torchvision's names."""
    root, found = tmp_path_factory.mktemp("resnets"), {}
    for name in NAMES:
        network = reference(name)
        channels = 512 if name == "resnet-18" else 2048
        head = {"fc.weight": torch.zeros(10, channels), "fc.bias": torch.zeros(10)}
        torch.save(torchvisions(network.state_dict()) | head, root / f"{name}.pth")
        found[name] = network, root / f"{name}.pth"
    return found


def imported(path: Path, name: str, directory: Path, **settings) -> Path:
    source = ResNetSource(kind="resnet", architecture=name, path=path.as_posix(), **settings)
    import_encoder.run(
        PretrainedSettings(source=source),
        weights=directory / "encoder.safetensors",
        description=directory / "encoder.json",
    )
    return directory


def images(height: int, width: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(160, 96), (131, 97)])
def test_every_block_equals_the_library_and_the_rest_equals_the_uncut_network(
    name, size, written, tmp_path
):
    theirs, path = written[name]
    network, x = load_encoder(imported(path, name, tmp_path)), images(*size)
    names = layer_names(name)
    expected: dict[str, torch.Tensor] = {}
    blocks = [block for stage in theirs.encoder.stages for block in stage.layers]
    for layer, block in zip(names, blocks, strict=False):
        block.register_forward_hook(
            lambda _module, _inputs, output, layer=layer: expected.update({layer: output.clone()})
        )
    with torch.inference_mode():
        pooled = theirs(x).pooler_output.flatten(1)
        maps = network.forward_layers(x, names)
        whole = network(x)
        assert list(expected) == list(names[:-1])
        for layer in expected:
            assert relative(maps[layer].cells, expected[layer]) < 1e-5, layer
        assert relative(whole, pooled) < 1e-5
        for layer in names:
            stored = maps[layer].cells.permute(0, 2, 3, 1).contiguous()
            assert torch.equal(network.rest(layer, to_map(stored)), whole), layer


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pixel", [(0, 0), (101, 66), (159, 127)])
def test_an_impulse_changes_exactly_the_cells_whose_receptive_field_has_it(name, pixel):
    network = positive(name)
    x = torch.zeros(1, 3, 160, 128, dtype=torch.float64)
    x[:, :, pixel[0], pixel[1]] = 1.0
    spatial = layers(name)[:-1]
    with torch.inference_mode():
        maps = network.forward_layers(x, [layer.name for layer in spatial])
    for layer in spatial:
        seen = maps[layer.name].cells[0].abs().amax(0).numpy() > 0
        assert seen.shape == architecture(name).grid_shape(layer.name, 160, 128)
        inside = [
            [
                0 <= coordinate - (layer.start + cell * layer.stride) < layer.receptive_field
                for cell in range(count)
            ]
            for coordinate, count in zip(pixel, seen.shape, strict=True)
        ]
        np.testing.assert_array_equal(seen, np.outer(*inside), err_msg=layer.name)


def positive(name: str) -> Network:
    """A network in which every input of a cell increases it."""
    described = EncoderDescription(
        kind="pretrained",
        architecture=name,
        normalisation=IMAGENET,
        source="test",
        licence="none",
        data="none",
    )
    network = build(described).double().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.fill_(1 / module.weight[0].numel())
            module.bias.zero_()
    return network


def test_the_stem_of_a_network_that_is_trained_further_keeps_its_gradient(written, tmp_path):
    network = load_encoder(imported(written["resnet-18"][1], "resnet-18", tmp_path))
    for part in network.parts_after("blocks.2"):
        part.requires_grad_(True)
    network(images(64, 64)).sum().backward()
    trained = {name for name, value in network.named_parameters() if value.grad is not None}
    assert min(int(name.split(".")[1]) for name in trained) == 3
    assert {int(name.split(".")[1]) for name in trained} == {3, 4, 5, 6, 7}


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.", "model.image_encoder."])
@pytest.mark.parametrize("numbered", [False, True])
def test_weights_are_found_behind_a_prefix_and_with_the_parts_numbered(
    prefix, numbered, written, tmp_path
):
    _, path = written["resnet-50"]
    state = torch.load(path)
    if numbered:
        state = {
            f"{ROW[key.partition('.')[0]]}.{key.partition('.')[2]}": value
            for key, value in state.items()
            if not key.startswith("fc.")
        }
    torch.save({"state_dict": {prefix + key: v for key, v in state.items()}}, tmp_path / "x.pth")
    plain = load_encoder(imported(path, "resnet-50", tmp_path / "plain"))
    found = load_encoder(imported(tmp_path / "x.pth", "resnet-50", tmp_path / "found"))
    for (name, one), (_, other) in zip(
        plain.state_dict().items(), found.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name


def mirais(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of torchvision by the names of Mirai, with parts that only Mirai has."""
    named = {"_model.prob_of_failure_layer.hazard_fc.weight": torch.zeros(5, 512)}
    for key, value in state.items():
        part, rest = key.split(".", 1)
        ours = {"fc": key}.get(part, f"downsampler.{key}")
        if part.startswith("layer"):
            ours = f"{part}_{rest}"
        named[f"_model.{ours}"] = value
    return named


def gmics(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of torchvision as GMIC's network of patches, beside its network of whole images."""
    named = {
        "ds_net.first_conv.weight": torch.zeros(16, 1, 7, 7),
        "ds_net.layer_list.0.0.conv1.weight": torch.zeros(16, 16, 3, 3),
        "ds_net.layer_list.0.0.bn1.weight": torch.zeros(16),
        "fusion_dnn.weight": torch.zeros(2, 768),
    }
    kept = {key: value for key, value in state.items() if not key.startswith("fc.")}
    return named | {f"dn_resnet.{key}": value for key, value in kept.items()}


@pytest.mark.parametrize("theirs", [mirais, gmics])
def test_the_state_dicts_of_mirai_and_gmic_are_read(theirs, written, tmp_path):
    _, path = written["resnet-18"]
    state = theirs(torch.load(path))
    assert "conv1.weight" not in state
    torch.save(state, tmp_path / "x.p")
    plain = load_encoder(imported(path, "resnet-18", tmp_path / "plain"))
    found = load_encoder(imported(tmp_path / "x.p", "resnet-18", tmp_path / "found"))
    for (name, one), (_, other) in zip(
        plain.state_dict().items(), found.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name


def test_a_weight_that_mirais_file_lacks_is_named(written, tmp_path):
    state = mirais(torch.load(written["resnet-18"][1]))
    del state["_model.layer2_1.bn2.running_var"]
    torch.save(state, tmp_path / "x.p")
    with pytest.raises(InputError, match=r"lacks layer2\.1\.bn2\.running_var: it is of another"):
        imported(tmp_path / "x.p", "resnet-18", tmp_path)


def test_weights_of_another_resnet_are_refused_with_the_first_keys(written, tmp_path):
    with pytest.raises(InputError, match=r"of another architecture or incomplete; correct arch"):
        imported(written["resnet-18"][1], "resnet-50", tmp_path)
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"holds 'a\.weight', but no conv1\.weight behind any pre"):
        imported(tmp_path / "x.pth", "resnet-50", tmp_path)


def test_the_users_normalisation_is_kept(written, tmp_path):
    directory = imported(
        written["resnet-18"][1], "resnet-18", tmp_path, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    assert load_description(directory).normalisation.mean == (0.5, 0.5, 0.5)
