from __future__ import annotations

import efficientnet_lite_pytorch
import efficientnet_pytorch
import pytest

from mammo_sae.encoders.architectures import (
    architecture,
    find_layer,
    grid_shape,
    layer_names,
    layers,
    listing,
)
from mammo_sae.encoders.plans.efficientnet import SCALING
from mammo_sae.errors import InputError


def reference(name: str):
    package = efficientnet_lite_pytorch if "lite" in name else efficientnet_pytorch
    return package.EfficientNet.from_name(name)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-b2", "efficientnet-b5"])
def test_blocks_channels_and_padding_are_those_of_the_reference_package(name):
    ours, theirs = architecture(name), reference(name)
    assert ours.stem_channels == theirs._conv_stem.out_channels
    assert ours.head_channels == theirs._conv_head.out_channels
    assert len(ours.blocks) == len(theirs._blocks)
    for block, other in zip(ours.blocks, theirs._blocks, strict=True):
        depthwise = other._depthwise_conv
        assert block.expanded == depthwise.out_channels
        assert block.outputs == other._project_conv.out_channels
        assert block.depthwise.kernel == depthwise.kernel_size[0]
        assert block.depthwise.stride == depthwise.stride[0]
        padding = getattr(depthwise.static_padding, "padding", (0, 0, 0, 0))
        assert (block.depthwise.before, block.depthwise.after) * 2 == padding
        assert (block.squeezed is not None) == other.has_se
        if other.has_se:
            assert block.squeezed == other._se_reduce.out_channels


def test_mammo_clips_channels_per_block_are_the_published_ones():
    def runs(name):
        channels = [layer.channels for layer in layers(name) if layer.name.startswith("blocks")]
        return [(c, channels.count(c)) for c in dict.fromkeys(channels)]

    b5 = [(24, 3), (40, 5), (64, 5), (128, 7), (176, 7), (304, 9), (512, 3)]
    b2 = [(16, 2), (24, 3), (48, 3), (88, 4), (120, 4), (208, 5), (352, 2)]
    assert runs("efficientnet-b5") == b5
    assert runs("efficientnet-b2") == b2
    assert find_layer("efficientnet-b5", "head").channels == 2048
    assert find_layer("efficientnet-b2", "head").channels == 1408


def test_the_final_grid_of_mammo_clip_is_48_by_29():
    assert grid_shape("efficientnet-b5", "head", 1520, 912) == (48, 29)
    assert grid_shape("efficientnet-b2", "head", 1520, 912) == (48, 29)
    assert grid_shape("efficientnet-b5", "pooled", 1520, 912) == (1, 1)


@pytest.mark.parametrize("name", SCALING)
def test_layers_are_named_from_the_first_block_to_the_pooled_map(name):
    names = layer_names(name)
    assert names[0] == "blocks.0"
    assert names[-2:] == ("head", "pooled")
    assert len(set(names)) == len(names) == len(architecture(name).blocks) + 2


@pytest.mark.parametrize("layer", ["blocks.16", "blocks", "stem", ""])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(layer):
    with pytest.raises(InputError, match=r"blocks\.0 to blocks\.15, head or pooled"):
        find_layer("efficientnet-lite0", layer)


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="no architecture 'resnet50'; choose one of"):
        architecture("resnet50")


def test_an_image_too_small_for_a_cell_is_refused():
    with pytest.raises(InputError, match="0x64 pixels is too small"):
        grid_shape("efficientnet-b2", "head", 0, 64)


def test_the_largest_map_bounds_what_one_image_needs():
    # The expansion of block 1, at half the image's size.
    assert architecture("efficientnet-lite0").largest_map(384, 256) == 192 * 128 * 96


def test_the_listing_has_a_line_per_layer_with_grid_and_stored_size():
    lines = [line.split() for line in listing("efficientnet-b5", 1520, 912).splitlines()]
    assert len(lines) == 1 + 39 + 2
    assert lines[-2] == ["head", "2048", "32", "48x29", "2131", "5701.6"]
    assert lines[-1] == ["pooled", "2048", "-", "1x1", "image", "4.1"]
