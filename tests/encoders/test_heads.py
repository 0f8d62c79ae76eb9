from __future__ import annotations

import numpy as np
import pytest

from mammo_sae.encoders.heads import Head, load_head, save_head
from mammo_sae.errors import InputError
from mammo_sae.stores.publish import write_json


@pytest.fixture
def head() -> Head:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 5)).astype(np.float32)
    return Head(weight, np.array([1.0, -1.0], np.float32), ("mass", "cyst"))


def save(head, directory):
    save_head(head, directory / "head.safetensors", directory / "head.json")


def test_a_head_comes_back_as_it_was(head, tmp_path):
    save(head, tmp_path)
    back = load_head(tmp_path)
    np.testing.assert_array_equal(back.weight, head.weight)
    np.testing.assert_array_equal(back.bias, head.bias)
    assert back.concepts == head.concepts


def test_a_concept_has_its_own_row(head):
    pooled = np.eye(5, dtype=np.float16)
    assert head.logits(pooled).shape == (5, 2)
    np.testing.assert_allclose(
        head.logits(pooled)[:, head.row("cyst")], head.weight[1] - 1, rtol=1e-6
    )
    with pytest.raises(InputError, match="no concept 'lump', only mass, cyst"):
        head.row("lump")


def test_a_truncated_head_is_refused_with_its_name(head, tmp_path):
    save(head, tmp_path)
    weights = tmp_path / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"head\.safetensors does not match head\.json"):
        load_head(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "truncated", "no description"])
def test_a_damaged_head_that_is_trained_again_is_read(head, tmp_path, damage):
    save(head, tmp_path)
    weights = tmp_path / "head.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-4])
    else:
        (weights if damage == "missing" else tmp_path / "head.json").unlink()
    with pytest.raises(InputError, match=r"run the head's training again|run the step that makes"):
        load_head(tmp_path)
    save(head, tmp_path)
    np.testing.assert_array_equal(load_head(tmp_path).weight, head.weight)


def test_weights_that_do_not_match_their_description_are_refused(head, tmp_path):
    save(head, tmp_path)
    write_json(tmp_path / "head.json", {"concepts": ["mass"], "channels": 5, "digest": "0" * 64})
    with pytest.raises(InputError, match=r"head\.safetensors does not match head\.json"):
        load_head(tmp_path)
