from __future__ import annotations

import efficientnet_pytorch
import pytest
import torch
from safetensors.torch import save_file

from mammo_sae.encoders import checkpoints
from mammo_sae.errors import InputError

NAME = "efficientnet-b0"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return dict(efficientnet_pytorch.EfficientNet.from_name(NAME).state_dict())


def test_a_state_dict_may_come_without_classifier_and_counters(state):
    bare = {
        key: value
        for key, value in state.items()
        if not key.startswith("_fc") and "num_batches" not in key
    }
    folded = checkpoints.fold(bare, NAME, "here")
    assert folded.keys() == checkpoints.fold(state, NAME, "here").keys()


def test_missing_unexpected_and_misshaped_keys_are_named(state):
    broken = dict(state)
    del broken["_conv_head.weight"]
    broken["_extra.weight"] = torch.zeros(1)
    broken["_bn1.bias"] = torch.zeros(7)
    with pytest.raises(InputError) as caught:
        checkpoints.fold(broken, NAME, "checkpoint a.pth")
    message = str(caught.value)
    assert message.startswith("checkpoint a.pth lacks _conv_head.weight; ")
    assert "has unexpected _extra.weight" in message
    assert "_bn1.bias of shape (7,) instead of (1280,)" in message


def test_a_checkpoint_of_another_architecture_is_refused(state):
    with pytest.raises(InputError, match="of another architecture"):
        checkpoints.fold(state, "efficientnet-b2", "checkpoint a.pth")


def test_long_lists_of_keys_are_cut_short(state):
    with pytest.raises(InputError, match=r"and \d+ more"):
        checkpoints.fold({}, NAME, "checkpoint a.pth")


def test_weights_that_are_not_numbers_are_refused(state):
    broken = dict(state) | {"_conv_head.weight": torch.full((1280, 320, 1, 1), float("nan"))}
    with pytest.raises(InputError, match=r"NaN or infinity in head\.weight"):
        checkpoints.fold(broken, NAME, "checkpoint a.pth")


def test_a_wrong_sha256_is_refused_with_both(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")
    digest = checkpoints.sha256(path)
    assert checkpoints.check_sha256(path, digest.upper()) == digest
    with pytest.raises(InputError, match=f"{digest}, not {'0' * 64} as configured"):
        checkpoints.check_sha256(path, "0" * 64)


def test_a_missing_file_is_refused_with_its_path(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.pth does not exist"):
        checkpoints.check_sha256(tmp_path / "nowhere.pth", None)


PREFIXES = {
    "bare": (None, ""),
    "bare, DataParallel": (None, "module."),
    "Mammo-CLIP, Mammo-FM": ("model", "image_encoder."),
    "VersaMammo": (None, "module.image_encoder."),
    "Lightning": ("state_dict", "model."),
    "Lightning of Mammo-CLIP": ("state_dict", "model.image_encoder."),
    "DataParallel of Mammo-CLIP": ("model", "module.image_encoder."),
}


@pytest.mark.parametrize("layout", PREFIXES)
@pytest.mark.parametrize("form", ["zip", "legacy", "protocol 4"])
def test_the_encoder_is_found_under_every_prefix_and_in_every_format(state, tmp_path, layout, form):
    inside, prefix = PREFIXES[layout]
    named = {f"{prefix}{key}": value for key, value in state.items()}
    named["text_encoder.embeddings.weight"] = torch.zeros(3, 4)
    path = tmp_path / "weights.pth"
    content = {inside: named, "epoch": 3} if inside else named
    torch.save(
        content,
        path,
        pickle_protocol=4 if form == "protocol 4" else 2,
        _use_new_zipfile_serialization=form != "legacy",
    )
    found = checkpoints.find(path, [checkpoints.efficientnet(NAME)])
    assert found.prefix == prefix
    assert all(torch.equal(found.state[key], value) for key, value in state.items())


def test_the_encoder_is_found_in_safetensors(state, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({f"image_encoder.{key}": value.contiguous() for key, value in state.items()}, path)
    found = checkpoints.find(path, [checkpoints.efficientnet(NAME)])
    assert all(torch.equal(found.state[key], value) for key, value in state.items())


def test_a_checkpoint_of_two_encoders_is_refused_and_the_way_out_leads_out(state, tmp_path):
    path = tmp_path / "weights.pth"
    other = {key: value + 1 for key, value in state.items()}
    torch.save({"model": dict(state), "ema": dict(state)}, path)
    checkpoints.find(path, [checkpoints.efficientnet(NAME)])
    torch.save({"model": dict(state), "ema": other}, path)
    with pytest.raises(
        InputError, match=r"2 encoders that differ .* save the state dict of the one"
    ):
        checkpoints.find(path, [checkpoints.efficientnet(NAME)])
    torch.save(other, path)
    found = checkpoints.find(path, [checkpoints.efficientnet(NAME)])
    assert torch.equal(found.state["_bn1.bias"], other["_bn1.bias"])


class Whole(efficientnet_pytorch.EfficientNet):
    """A network that is saved as an object, not as weights."""


@pytest.mark.parametrize("inside", [None, "model", "state_dict"])
def test_a_whole_object_is_refused_and_the_way_out_leads_out(tmp_path, inside):
    path = tmp_path / "weights.pth"
    network = Whole.from_name(NAME)
    torch.save({inside: network} if inside else network, path)
    with pytest.raises(InputError, match=r"object of .*Whole.* save model\.state_dict\(\) with"):
        checkpoints.find(path, [checkpoints.efficientnet(NAME)])
    torch.save(network.state_dict(), path)
    found = checkpoints.find(path, [checkpoints.efficientnet(NAME)])
    assert torch.equal(found.state["_bn1.bias"], network.state_dict()["_bn1.bias"])


def test_a_weight_that_an_unknown_library_makes_is_refused_by_name(state, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(dict(state) | {"_bn1.bias": Whole.from_name(NAME)}, path)
    with pytest.raises(InputError, match=r"_bn1\.bias is of .*Whole, which is not read"):
        checkpoints.find(path, [checkpoints.efficientnet(NAME)])
    torch.save(dict(state), path)
    checkpoints.find(path, [checkpoints.efficientnet(NAME)])


def test_the_error_about_another_kind_of_network_names_its_contents(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": {"conv_stem.weight": torch.zeros(1), "bn1.weight": torch.zeros(1)}}, path)
    with pytest.raises(InputError, match=r"holds 'conv_stem\.weight', 'bn1\.weight', but no _conv"):
        checkpoints.find(path, [checkpoints.efficientnet(NAME)])


def test_quantised_weights_are_refused_and_the_way_out_leads_out(state):
    quantised = dict(state) | {"_conv_head.weight": state["_conv_head.weight"].to(torch.int8)}
    with pytest.raises(
        InputError, match=r"_conv_head\.weight is of int8; save the weights as float"
    ):
        checkpoints.fold(quantised, NAME, "checkpoint a.pth")
    quantised["_conv_head.weight"] = quantised["_conv_head.weight"].float()
    checkpoints.fold(quantised, NAME, "checkpoint a.pth")
