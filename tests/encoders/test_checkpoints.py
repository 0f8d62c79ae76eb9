from __future__ import annotations

import collections
import random

import efficientnet_pytorch
import pytest
import torch

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


def test_a_truncated_file_is_refused_with_its_name(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"weights\.pth is damaged"):
        checkpoints.read_pickle(path)


def test_a_file_that_is_no_pickle_is_refused_with_its_name(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(InputError, match=r"weights\.pth is damaged"):
        checkpoints.read_pickle(path)


class Opener:
    """What a hostile checkpoint would hold: its unpickling calls a function."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_forbidden_global_is_refused_by_name_and_never_run(tmp_path):
    path, victim = tmp_path / "weights.pth", tmp_path / "written"
    torch.save({"model": {"a": torch.zeros(1)}, "trap": Opener(victim)}, path)
    with pytest.raises(InputError, match=r"weights\.pth holds .*open.* is refused; where"):
        checkpoints.read_pickle(path)
    assert not victim.exists()


def test_a_class_is_read_only_when_it_is_on_the_list(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"counts": collections.Counter(a=1)}, path)
    assert checkpoints.read_pickle(path)["counts"]["a"] == 1
    torch.save({"seed": random.Random(1)}, path)
    with pytest.raises(InputError, match=r"holds random\.Random"):
        checkpoints.read_pickle(path)
    assert (
        checkpoints.read_pickle(path, [random.Random])["seed"].random() == random.Random(1).random()
    )


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
