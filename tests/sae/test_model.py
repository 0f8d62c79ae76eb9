from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch

from mammo_sae.errors import InputError, StoreError
from mammo_sae.sae.model import Encoder, SparseAutoencoder
from mammo_sae.stores.publish import read_json, write_json


def make(threshold: float | None = None, k: int = 3, h: int = 20, d: int = 6):
    random = torch.Generator().manual_seed(8)
    atoms = torch.randn(h, d, generator=random)
    return SparseAutoencoder(
        encoder_weight=atoms.clone(),
        encoder_bias=torch.randn(h, generator=random) / 10,
        decoder_weight=atoms / atoms.norm(dim=1, keepdim=True),
        decoder_bias=torch.randn(d, generator=random),
        k=None if threshold is not None else k,
        threshold=None if threshold is None else torch.full((h,), threshold),
        description={"layer": "head"},
    )


def preactivations(sae: SparseAutoencoder, x: torch.Tensor) -> torch.Tensor:
    return x.double() @ sae.encoder_weight.double().t() + sae.encoder_bias.double()


def test_topk_codes_are_the_largest_preactivations_above_zero():
    sae, x = make(), torch.randn(50, 6, generator=torch.Generator().manual_seed(9))
    index, value = Encoder(sae)(x)
    expected = preactivations(sae, x).topk(3).values.clamp(min=0).float()
    torch.testing.assert_close(value.sort(dim=1, descending=True).values, expected)
    assert (index[value == 0] == 0).all()


def test_thresholded_codes_are_all_preactivations_above_the_threshold():
    sae = make(threshold=0.7)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(10))
    index, value = Encoder(sae)(x)
    pre = preactivations(sae, x)
    dense = torch.zeros(50, 20).scatter_add(1, index, value)
    torch.testing.assert_close(dense, (pre * (pre > 0.7)).float())


def test_a_large_common_part_does_not_blur_the_codes():
    sae = make()
    shift = torch.full((6,), 500.0)
    shifted = SparseAutoencoder(
        **{
            **sae.tensors(),
            "encoder_bias": sae.encoder_bias - sae.encoder_weight @ shift,
            "decoder_bias": sae.decoder_bias + shift,
        },
        k=3,
    )
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(11))
    torch.testing.assert_close(
        Encoder(sae)(x),
        Encoder(shifted)(x + shift),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("threshold", [None, 0.4])
def test_a_saved_sae_gives_the_same_codes_when_loaded(tmp_path: Path, threshold):
    sae = make(threshold)
    sae.save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    again = SparseAutoencoder.load(tmp_path / "sae.json")
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(12))
    for before, after in zip(sae.encoder()(x), again.encoder()(x), strict=True):
        assert torch.equal(before, after)
    assert torch.equal(sae.decode(*sae.encoder()(x)), again.decode(*again.encoder()(x)))
    assert again.description["layer"] == "head"


@pytest.mark.parametrize(
    "given", [Path, str, lambda path: path.parent, lambda path: f"{path.parent}/"]
)
def test_an_sae_is_loaded_by_its_json_or_its_folder_as_a_path_or_a_string(tmp_path: Path, given):
    make().save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    again = SparseAutoencoder.load(given(tmp_path / "sae.json"))
    assert torch.equal(again.encoder_weight, make().encoder_weight)


@pytest.mark.parametrize("given", [Path, str])
def test_a_file_that_is_no_sae_is_refused_with_advice(tmp_path: Path, given):
    (tmp_path / "empty").mkdir()
    (tmp_path / "config.json").write_text('{"architecture": "topk"}')
    (tmp_path / "list.json").write_text("[]")
    make().save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    missing, other = "is missing; give the path of a trained SAE", "does not describe an SAE; give"
    for name, complaint in {
        "empty/sae.json": missing,
        "none": missing,
        "config.json": other,
        "list.json": other,
        "sae.safetensors": other,
    }.items():
        with pytest.raises(StoreError) as refused:
            SparseAutoencoder.load(given(tmp_path / name.replace("empty/sae.json", "empty")))
        assert str(refused.value).startswith(f"{tmp_path / name} {complaint}")


def test_a_description_that_was_changed_is_refused_by_name(tmp_path: Path):
    make().save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    text = (tmp_path / "sae.json").read_text()
    (tmp_path / "sae.json").write_text(text.replace('"head"', '"pooled"'))
    with pytest.raises(StoreError, match=r"sae\.json was changed after it was written"):
        SparseAutoencoder.load(tmp_path)


def test_weights_that_were_changed_are_refused_by_name(tmp_path: Path):
    make().save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    content = bytearray((tmp_path / "sae.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "sae.safetensors").write_bytes(content)
    with pytest.raises(StoreError, match=r"sae\.safetensors is not the file .* describes"):
        SparseAutoencoder.load(tmp_path / "sae.json")


def test_missing_weights_are_named(tmp_path: Path):
    make().save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    (tmp_path / "sae.safetensors").unlink()
    with pytest.raises(StoreError, match=r"sae\.safetensors is missing"):
        SparseAutoencoder.load(tmp_path / "sae.json")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"kind": "codes"}, "does not describe an SAE"), ({"format": 99}, "does not have format 2")],
)
def test_another_kind_of_json_is_refused(tmp_path: Path, change, complaint):
    make().save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    write_json(tmp_path / "sae.json", {**read_json(tmp_path / "sae.json"), **change})
    with pytest.raises(StoreError, match=complaint):
        SparseAutoencoder.load(tmp_path / "sae.json")


def damage(folder: Path, how: str) -> None:
    weights, description = folder / "sae.safetensors", folder / "sae.json"
    content = read_json(description)
    if how == "another format":
        write_json(description, {**content, "format": 99})
    elif how == "no weights":
        weights.unlink()
    elif how == "other weights":
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    else:
        weights.write_bytes(b"no weights")
        digest = hashlib.sha256(b"no weights").hexdigest()
        write_json(description, {**content, "digest": digest})


@pytest.mark.parametrize("how", ["another format", "no weights", "other weights", "no tensors"])
def test_an_sae_that_is_trained_again_as_advised_is_loaded(tmp_path: Path, how):
    make().save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    damage(tmp_path, how)
    with pytest.raises(StoreError, match=r"; train the SAE again$"):
        SparseAutoencoder.load(tmp_path)
    make().save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    again = SparseAutoencoder.load(tmp_path)
    assert torch.equal(again.encoder_weight, make().encoder_weight)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere", r"give the path of a trained SAE$"),
        ("sae.safetensors", r"does not describe an SAE; give the path of a (\S+)$"),
        ("other.json", r"does not describe an SAE; give the path of a (\S+)$"),
    ],
)
def test_an_sae_is_loaded_by_the_path_that_the_message_names(tmp_path: Path, given, said):
    make().save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(StoreError) as refused:
        SparseAutoencoder.load(tmp_path / given)
    found = re.search(said, str(refused.value))
    assert found, refused.value
    path = tmp_path / "".join(found.groups())
    assert torch.equal(SparseAutoencoder.load(path).encoder_weight, make().encoder_weight)


@pytest.mark.parametrize("rule", [{}, {"k": 3, "threshold": torch.ones(20)}])
def test_an_sae_with_either_k_or_a_threshold_is_made(rule):
    weights = make().tensors()
    with pytest.raises(InputError, match="needs either k or a threshold, not both; give one"):
        SparseAutoencoder(**weights, **rule)
    assert SparseAutoencoder(**weights, k=3).k == 3
    assert SparseAutoencoder(**weights, threshold=torch.ones(20)).k is None


def test_tensors_that_do_not_fit_are_refused():
    sae = make()
    with pytest.raises(InputError, match=r"encoder_bias has shape \(3,\), not \(20,\)"):
        SparseAutoencoder(**{**sae.tensors(), "encoder_bias": torch.zeros(3)}, k=3)
    with pytest.raises(InputError, match="decoder_bias holds NaN"):
        SparseAutoencoder(**{**sae.tensors(), "decoder_bias": torch.full((6,), torch.nan)}, k=3)


@pytest.mark.parametrize(
    ("own", "complaint"),
    [
        ({"k": 0}, "can't have 0 of them active"),
        ({"k": 21}, "can't have 21 of them active"),
        ({}, "either k or a threshold"),
        ({"k": 3, "threshold": torch.ones(20)}, "either k or a threshold"),
        ({"k": 3, "selection": torch.arange(20.0)}, "selection must be above 0 and needs k"),
        ({"threshold": torch.ones(20), "selection": torch.ones(20)}, "must be above 0 and needs k"),
    ],
)
def test_what_decides_on_active_latents_is_given_once_and_valid(own, complaint):
    weights = make().tensors()
    with pytest.raises(InputError, match=complaint):
        SparseAutoencoder(**weights, **own)
    for k in (1, 20):
        assert SparseAutoencoder(**weights, k=k, selection=torch.full((20,), 0.1)).k == k
