"""SAEs of other libraries, read from files in their layouts and checked by their formulas."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import foreign
import pytest
import torch
from foreign import D, Foreign, H, K
from safetensors.torch import load_file, save_file

from mammo_sae.analysis.sae_quality import decoder_cosines
from mammo_sae.errors import InputError
from mammo_sae.sae.formats import saelens
from mammo_sae.sae.formats.published import read_published
from mammo_sae.sae.formats.tensors import Tensors, whole_number
from mammo_sae.sae.model import Encoder, SparseAutoencoder
from mammo_sae.sae.pairing import matched_cosines
from mammo_sae.sae.settings import PublishedVariant

TOPK = {"activation_fn_kwargs": {"k": K}}
# Contents of `cfg.json` in versions of SAELens: the value of each key, or a missing key.
SAELENS = {
    "standard of 2024, nothing said": ("standard", {}),
    "standard of v3": ("standard", {
        "architecture": "standard", "activation_fn_str": "relu", "activation_fn_kwargs": {},
        "apply_b_dec_to_input": True, "normalize_activations": "none", "hook_name": "blocks.3",
        "finetuning_scaling_factor": False, "sae_lens_training_version": "3.11.1",
    }),
    "standard that is topk": ("topk", {
        "architecture": "standard", "activation_fn_str": "topk", **TOPK,
    }),
    "nothing said but topk": ("topk", {"activation_fn": "topk", **TOPK}),
    "topk of v5": ("topk", {
        "architecture": "topk", "activation_fn": "topk", **TOPK, "normalize_activations": False,
    }),
    "topk of v6": ("topk", {
        "architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": False,
        "apply_b_dec_to_input": True, "normalize_activations": "none",
        "reshape_activations": "none", "metadata": {"sae_lens_version": "6.54.12"},
    }),
    "topk of v6, chosen by length": ("topk", {
        "architecture": "topk", "k": float(K), "rescale_acts_by_decoder_norm": True,
        "metadata": {"sae_lens_version": "6.54.12"},
    }),
    "jumprelu of v4": ("jumprelu", {"architecture": "jumprelu", "activation_fn_str": "relu"}),
    "jumprelu of v6": ("jumprelu", {
        "architecture": "jumprelu", "metadata": {"sae_lens_version": "6.0.0"},
    }),
    "gated of v4": ("gated", {"architecture": "gated", "activation_fn_str": "relu"}),
    "gated of v6": ("gated", {"architecture": "gated", "metadata": {"sae_lens_version": "6.1.0"}}),
}  # fmt: skip
CLASSES = (
    "AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "GatedAutoEncoder",
    "JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE",
)  # fmt: skip
OVERCOMPLETE = ("SAE", "TopKSAE", "JumpSAE", "BatchTopKSAE", "RATopKSAE", "RAJumpSAE")
CASES: dict[str, Callable[[Path], Foreign]] = {
    **{
        f"saelens {age}": lambda at, kind=kind, config=config: foreign.saelens(at, kind, config)
        for age, (kind, config) in SAELENS.items()
    },
    "saelens raw input": lambda at: foreign.saelens(
        at, "jumprelu", {"architecture": "jumprelu", "apply_b_dec_to_input": False}, centred=False
    ),
    **{
        f"dictionary_learning {kind}": lambda at, kind=kind: foreign.dictionary_learning(at, kind)
        for kind in CLASSES
    },
    **{
        f"overcomplete {kind}": lambda at, kind=kind: foreign.overcomplete(at / "sae.pt", kind)
        for kind in OVERCOMPLETE
    },
    **{
        f"overcomplete {kind}, {encoder}": lambda at, kind=kind, encoder=encoder: (
            foreign.overcomplete(at / "sae.pt", kind, encoder)
        )
        for kind in OVERCOMPLETE
        for encoder in ("tied", "untied")
    },
}


def read(found: Foreign, **changes) -> SparseAutoencoder:
    given = {"path": str(found.path), "sha256": found.digest, "k": found.k} | changes
    return read_published(PublishedVariant(**given))


def cells(offset: torch.Tensor, count: int = 200) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(16)) * 2 + offset


def dense(index, value):
    return torch.zeros(len(index), H).scatter_add(1, index, value)


def assert_codes_as(found: Foreign, sae: SparseAutoencoder) -> None:
    x = cells(found.offset)
    codes = found.encode(x.double())
    length = found.atoms.double().norm(dim=1)
    index, value = Encoder(sae)(x)
    ours = dense(index, value).double()
    assert torch.equal(ours > 0, (codes > 0) & (length > 0))
    expected = codes * length
    assert (ours - expected).abs().max() <= 1e-6 * expected.abs().max()
    rebuilt = codes @ found.atoms.double() + found.offset.double()
    assert (sae.decode(index, value) - rebuilt).abs().max() <= 1e-6 * rebuilt.abs().max()
    norms = sae.decoder_weight.norm(dim=1)
    torch.testing.assert_close(norms, (length > 0).float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_codes_and_reconstructions_are_those_of_the_librarys_formula(case, tmp_path):
    found = CASES[case](tmp_path)
    sae = read(found)
    assert_codes_as(found, sae)
    # In our own file they stay the same.
    sae.save(tmp_path / "ours" / "sae.safetensors", tmp_path / "ours" / "sae.json")
    assert_codes_as(found, SparseAutoencoder.load(tmp_path / "ours" / "sae.json"))
    saelens.write(sae, tmp_path / "back")
    again = saelens.read(tmp_path / "back")
    x = cells(found.offset)
    codes, back = (dense(*Encoder(one)(x)) for one in (sae, again))
    assert torch.equal(back > 0, codes > 0)
    rounding = 2**-23 * float(codes.max())
    torch.testing.assert_close(back, codes, rtol=1.3e-6, atol=max(1e-5, rounding))


def test_codes_of_atoms_of_norm_1_are_not_touched(tmp_path):
    p = foreign.draw()
    unit = p["D"] / p["D"].norm(dim=1, keepdim=True)
    sae = read(foreign.saelens(tmp_path, "standard", {}, D=unit))
    assert torch.equal(sae.decoder_weight, unit)
    assert torch.equal(sae.encoder_weight, p["W"])
    assert sae.selection is None


def test_the_length_of_an_atom_does_not_change_which_latents_are_chosen(tmp_path):
    found = foreign.dictionary_learning(tmp_path, "AutoEncoderTopK")
    sae = read(found)
    x = cells(found.offset)
    by_length = sae.__class__(
        **{**sae.tensors(), "selection": torch.ones(H)}, k=sae.k, description={}
    )
    with_length, without = (dense(*Encoder(s)(x)) > 0 for s in (by_length, sae))
    assert torch.equal(without, found.encode(x.double()) > 0)
    assert (with_length != without).any(dim=1).float().mean() > 0.5


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "gated"])
def test_a_latent_whose_atom_is_zero_is_never_active(kind, tmp_path):
    p = foreign.draw()
    p["D"][3] = 0
    found = foreign.saelens(tmp_path, kind, {"architecture": kind}, D=p["D"])
    sae = read(found)
    assert_codes_as(found, sae)
    assert all(value == value for value in decoder_cosines(sae.decoder_weight).values())
    atoms = sae.decoder_weight.numpy()
    matched = matched_cosines(atoms, atoms)
    assert sorted(matched.round(5)) == [0.0] + [1.0] * (H - 1)


def test_a_latent_whose_atom_is_zero_is_refused_in_a_topk_sae(tmp_path):
    p = foreign.draw()
    p["D"][3] = 0
    found = foreign.dictionary_learning(tmp_path / "a", "AutoEncoderTopK", D=p["D"])
    with pytest.raises(InputError, match=r"atoms of 1 latents are 0 .*latent 3.*remove these"):
        read(found)
    config = {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True}
    assert read(foreign.saelens(tmp_path / "b", "topk", config, D=p["D"])).k == K


def test_a_factor_from_fine_tuning_is_honoured(tmp_path):
    p = foreign.draw()
    factor = torch.linspace(0.5, 2, H)
    plain = foreign.saelens(tmp_path, "standard", {}, D=p["D"] * factor[:, None])
    expected = plain.encode
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        config = {"finetuning_scaling_factor": True}
        found = foreign.saelens(tmp_path / name, "standard", config, **{name: factor})
        scaled = Foreign(found.path, found.weights, p["D"] * factor[:, None], p["c"], expected)
        assert_codes_as(scaled, read(scaled))
    found = foreign.saelens(tmp_path / "c", "standard", {}, scaling_factor=factor)
    with pytest.raises(InputError, match="scaling_factor other than 1"):
        read(found)
    ones = foreign.saelens(tmp_path / "d", "standard", {}, scaling_factor=torch.ones(H))
    assert_codes_as(ones, read(ones))


@pytest.mark.parametrize(
    ("kind", "change", "complaint"),
    [
        ("standard", {"normalize_activations": "layer_norm"}, "scales every cell by its own"),
        ("standard", {"normalize_activations": "constant_norm_rescale"}, "scales every cell by"),
        ("standard", {"normalize_activations": True}, "fold_activation_norm_scaling_factor"),
        ("standard", {"normalize_activations": "expected_average_only_in"}, "not in the file"),
        ("standard", {"normalize_activations": "covariance_whitening"}, "whitens by matrices"),
        ("standard", {"reshape_activations": "hook_z"}, "heads of an attention layer"),
        ("standard", {"hook_point": "blocks.0.attn.hook_z"}, "heads of an attention layer"),
        ("standard", {"activation_fn_str": "tanh-relu"}, 'activation "tanh-relu"'),
        ("standard", {"activation_fn_str": "topk"}, "a topk SAE without k"),
        ("standard", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2.5}}, "k is 2.5"),
        ("standard", {"activation_fn_str": "topk", "activation_fn_kwargs": 3}, "not an object"),
        ("standard", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 99}}, "k = 99"),
        ("standard", {"architecture": "transcoder"}, 'architecture "transcoder" can\'t be read'),
        ("standard", {"architecture": "jumprelu"}, "no tensor 'threshold'"),
        ("standard", {"architecture": "gated"}, "no tensor 'r_mag'"),
        ("jumprelu", {"architecture": "jumprelu", "activation_fn": "topk", **TOPK}, "activation"),
        ("standard", {"d_in": D + 1}, r"W_enc has shape \(7, 20\), not \(8, 20\)"),
        ("standard", {"apply_b_dec_to_input": "yes"}, "not true or false"),
        ("standard", {"finetuning_scaling_factor": True}, "has no such tensor"),
        ("topk", {"architecture": "topk"}, "a topk SAE without k"),
    ],
)  # fmt: skip
def test_a_saelens_folder_without_a_meaning_here_is_refused(tmp_path, kind, change, complaint):
    found = foreign.saelens(tmp_path, kind, change)
    with pytest.raises(InputError, match=complaint):
        read(found)


# The missing value of a file, its message, and the value to add to its configuration.
LEFT_OUT = {
    "k": ("topk", {"architecture": "topk"}, "a topk SAE without k; write k", {"k": K}),
    "k of an older file": (
        "topk",
        {"activation_fn_str": "topk"},
        "a topk SAE without k; write k",
        {"activation_fn_kwargs": {"k": K}},
    ),
    "k as a whole number": (
        "topk",
        {"architecture": "topk", "k": 2.5},
        "not a whole number of at least 1; correct it",
        {"k": K},
    ),
    "too large a k": (
        "topk",
        {"architecture": "topk", "k": 99},
        rf"has {H} latents, fewer than k = 99; correct k",
        {"k": K},
    ),
    "true or false": (
        "standard",
        {"apply_b_dec_to_input": "yes"},
        "not true or false; correct it",
        {"apply_b_dec_to_input": True},
    ),
    "an object": (
        "standard",
        {"activation_fn_kwargs": 3},
        "not an object; correct it",
        {"activation_fn_kwargs": {}},
    ),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_saelens_folder_that_is_corrected_as_advised_is_read(tmp_path, case):
    kind, config, said, correction = LEFT_OUT[case]
    found = foreign.saelens(tmp_path, kind, config)
    with pytest.raises(InputError, match=said):
        read(found)
    file = tmp_path / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | correction))
    assert_codes_as(found, read(found))


@pytest.mark.parametrize("used", [True, False])
def test_the_flag_for_a_scaling_factor_is_followed(tmp_path, used):
    factor = torch.linspace(0.5, 2, H)
    found = foreign.saelens(tmp_path, "standard", {}, scaling_factor=factor)
    with pytest.raises(InputError, match="set finetuning_scaling_factor there to true or false"):
        read(found)
    file = tmp_path / "cfg.json"
    said = {"finetuning_scaling_factor": used}
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    atoms = found.atoms * factor[:, None] if used else found.atoms
    assert_codes_as(replace(found, atoms=atoms), read(found))


def test_the_advice_of_a_message_about_k_is_accepted(tmp_path):
    topk = foreign.overcomplete(tmp_path / "topk.pt", "TopKSAE")
    with pytest.raises(InputError, match=r"set variant\.k to top_k for a TopK SAE"):
        read(topk, k=None)
    assert_codes_as(topk, read(topk, k=K))
    relu = foreign.overcomplete(tmp_path / "relu.pt", "SAE")
    with pytest.raises(InputError, match=rf"set variant\.k .*, or to {H} for a ReLU SAE"):
        read(relu, k=None)
    assert_codes_as(relu, read(relu, k=H))
    batch = foreign.overcomplete(tmp_path / "batch.pt", "BatchTopKSAE")
    state = torch.load(batch.path, weights_only=True)
    torch.save({n: t for n, t in state.items() if n != "running_threshold"}, batch.path)
    with pytest.raises(InputError, match=r"For a BatchTopK SAE, save running_threshold too"):
        read(batch, k=None)
    torch.save(state, batch.path)
    assert_codes_as(batch, read(batch))
    for found in (
        foreign.overcomplete(tmp_path / "jump.pt", "JumpSAE"),
        foreign.saelens(tmp_path / "s", "standard", {}),
    ):
        with pytest.raises(InputError, match=r"remove variant\.k"):
            read(found, k=3)
        assert_codes_as(found, read(found))


def test_a_digest_that_is_corrected_as_advised_is_taken(tmp_path):
    found = foreign.saelens(tmp_path, "standard", {})
    with pytest.raises(InputError) as refused:
        read(found, sha256="0" * 64)
    gives = re.search(
        "`(.*)` gives (\\w+), not 0+; .* or correct variant.sha256", str(refused.value)
    )
    told = subprocess.run(gives[1], shell=True, capture_output=True, text=True, check=True).stdout
    assert told.split()[0] == gives[2]
    assert_codes_as(found, read(found, sha256=gives[2]))


def test_weights_whose_folder_is_given_as_advised_are_read(tmp_path):
    for name, write in (
        ("s", lambda at: foreign.saelens(at, "standard", {})),
        ("d", lambda at: foreign.dictionary_learning(at, "AutoEncoder")),
    ):
        found = write(tmp_path / name)
        with pytest.raises(InputError, match="give the folder that holds both"):
            read(replace(found, path=found.weights))
        assert_codes_as(found, read(found, path=str(found.weights.parent)))


def test_latents_without_an_atom_that_are_removed_as_advised_are_no_obstacle(tmp_path):
    p = foreign.draw()
    p["D"][3] = 0
    found = foreign.saelens(tmp_path, "topk", {"architecture": "topk", "k": K}, D=p["D"])
    with pytest.raises(InputError, match=r"the first is latent 3.* remove these latents"):
        read(found)
    kept = [latent for latent in range(H) if latent != 3]
    tensors = load_file(found.weights)
    tensors = {
        "W_enc": tensors["W_enc"][:, kept].contiguous(),
        "b_enc": tensors["b_enc"][kept],
        "W_dec": tensors["W_dec"][kept],
        "b_dec": tensors["b_dec"],
    }
    save_file(tensors, found.weights)
    file = tmp_path / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"d_sae": H - 1}))
    assert read(found).decoder_weight.shape == (H - 1, D)


def unfolded(at: Path, value) -> Foreign:
    return foreign.saelens(at, "standard", {"normalize_activations": value})


def changed(found: Foreign, **tensors) -> Foreign:
    state = torch.load(found.weights, weights_only=True)
    torch.save(state | {n: t for n, t in tensors.items() if t is not None}, found.weights)
    return found


def lacking(found: Foreign, *names: str) -> Foreign:
    state = torch.load(found.weights, weights_only=True)
    torch.save({n: t for n, t in state.items() if n not in names}, found.weights)
    return found


def with_trainer(found: Foreign, **values) -> Foreign:
    path = found.path / "config.json"
    config = json.loads(path.read_text())
    kept = {n: v for n, v in (config["trainer"] | values).items() if v is not None}
    path.write_text(json.dumps(config | {"trainer": kept}))
    return found


def with_text(found: Foreign, text: str) -> Foreign:
    (found.path / "cfg.json").write_text(text)
    return found


def standard(at: Path) -> Foreign:
    return foreign.saelens(at, "standard", {})


def top(at: Path) -> Foreign:
    return foreign.overcomplete(at / "sae.pt", "TopKSAE")


def simplex(at: Path) -> Foreign:
    return foreign.overcomplete(at / "sae.pt", "RATopKSAE")


def with_factor(at: Path) -> Foreign:
    factor = torch.ones(H)
    config = {"finetuning_scaling_factor": True}
    return foreign.saelens(at, "standard", config, scaling_factor=factor)


# The wrong file, its message, and the file after one has done what the message says.
FETCHED = {
    "a number outside of the file": (
        lambda at: unfolded(at, True),
        "fold it .fold_activation_norm_scaling_factor of SAELens. and save again",
        lambda at: unfolded(at, "none"),
    ),
    "matrices outside of the file": (
        lambda at: unfolded(at, "covariance_whitening"),
        "whitens by matrices .*; fold them .* and save again",
        lambda at: unfolded(at, "none"),
    ),
    "a factor that is not in the file": (
        lambda at: foreign.saelens(at, "standard", {"finetuning_scaling_factor": True}),
        "has no such tensor; fetch the folder again",
        with_factor,
    ),
    "no JSON": (lambda at: with_text(standard(at), "{"), "; fetch it again", standard),
    "no object": (lambda at: with_text(standard(at), "[]"), "; fetch it again", standard),
    "a huge configuration": (
        lambda at: with_text(standard(at), " " * ((16 << 20) + 1)),
        "is too large for a configuration; fetch the folder again",
        standard,
    ),
    "no k": (
        lambda at: with_trainer(
            lacking(foreign.dictionary_learning(at, "AutoEncoderTopK"), "k"), k=None
        ),
        r"a TopK SAE without trainer\.k; write it into the file",
        lambda at: lacking(foreign.dictionary_learning(at, "AutoEncoderTopK"), "k"),
    ),
    "two numbers": (
        lambda at: with_trainer(foreign.dictionary_learning(at, "AutoEncoderTopK"), k=K + 1),
        r"trainer\.k is 5, but .* says 4; fetch the folder again",
        lambda at: foreign.dictionary_learning(at, "AutoEncoderTopK"),
    ),
    "no threshold": (
        lambda at: lacking(foreign.dictionary_learning(at, "BatchTopKSAE"), "threshold"),
        "has no threshold: .* save it again",
        lambda at: foreign.dictionary_learning(at, "BatchTopKSAE"),
    ),
    "atoms that are not of norm 1": (
        lambda at: changed(top(at), **{"dictionary._weights": foreign.draw()["D"]}),
        r"not 1: call sae\.eval\(\) before saving",
        top,
    ),
    "mixtures that don't sum to 1": (
        lambda at: changed(simplex(at), **{"dictionary.W": torch.ones(H, 9)}),
        r"that sum to 1: call sae\.eval\(\) before saving",
        simplex,
    ),
    "no folder's content": (
        lambda at: lacking_all(standard(at)),
        r"is a folder with no weights; it should hold one of .*sae_weights\.safetensors",
        standard,
    ),
    "no state dict": (
        lambda at: whole(top(at)),
        r"is no state dict; write one with torch\.save\(sae\.state_dict\(\), \.\.\.\)",
        top,
    ),
    "no real numbers": (
        lambda at: changed(top(at), **{"dictionary.multiplier": torch.tensor(1j)}),
        r"dictionary\.multiplier is no tensor of real numbers; save it as one",
        top,
    ),
    "no number": (
        lambda at: changed(top(at), **{"dictionary.multiplier": torch.tensor(torch.nan)}),
        r"dictionary\.multiplier holds NaN or infinity; save the SAE again",
        top,
    ),
    "an endless atom": (
        lambda at: changed(top(at), **{"dictionary.multiplier": torch.tensor(1000.0)}),
        "the norm of an atom is infinite; save the SAE again",
        top,
    ),
}


def lacking_all(found: Foreign) -> Foreign:
    aside = found.weights.rename(found.path.parent / "aside")
    return replace(found, weights=aside)


def whole(found: Foreign) -> Foreign:
    torch.save(list(torch.load(found.weights, weights_only=True).values()), found.weights)
    return found


@pytest.mark.parametrize("case", FETCHED)
def test_an_sae_that_is_saved_or_fetched_again_as_advised_is_read(tmp_path, case):
    wrong, said, right = FETCHED[case]
    with pytest.raises(InputError, match=said):
        read(wrong(tmp_path / "a"))
    found = right(tmp_path / "a")
    assert_codes_as(found, read(found))


def test_an_sae_at_the_path_that_is_corrected_as_advised_is_read(tmp_path):
    found = standard(tmp_path / "s")
    with pytest.raises(InputError, match=r"download the SAE, or correct variant\.path"):
        read(found, path=str(tmp_path / "nowhere.pt"))
    assert_codes_as(found, read(found))
    config = (found.path / "cfg.json").rename(tmp_path / "aside")
    with pytest.raises(InputError, match="is missing; fetch the whole folder"):
        saelens.read(found.path)
    config.rename(found.path / "cfg.json")
    assert_codes_as(found, saelens.read(found.path))
    digest = found.digest
    weights = found.weights.read_bytes()
    found.weights.write_bytes(weights[:-1] + b"x")
    with pytest.raises(InputError, match="download the SAE again, or"):
        read(found, sha256=digest)
    found.weights.write_bytes(weights)
    assert_codes_as(found, read(found, sha256=digest))


def test_values_that_a_state_dict_lacks_must_be_given(tmp_path):
    found = foreign.overcomplete(tmp_path / "sae.pt", "TopKSAE")
    with pytest.raises(InputError, match=r"top_k for a TopK SAE, or to 20 for a ReLU"):
        read(found, k=None)
    with pytest.raises(InputError, match=r"has thresholds; remove variant\.k"):
        read(foreign.overcomplete(tmp_path / "jump.pt", "JumpSAE"), k=3)
    with pytest.raises(InputError, match=r"states itself .*remove variant\.k"):
        read(foreign.saelens(tmp_path / "s", "standard", {}), k=3)


def test_a_dictionary_that_its_library_would_change_first_is_refused(tmp_path):
    found = foreign.overcomplete(tmp_path / "sae.pt", "TopKSAE")
    state = torch.load(found.path, weights_only=True)
    torch.save(state | {"dictionary._weights": state["dictionary._weights"] * 1.1}, found.path)
    with pytest.raises(InputError, match=r"norms from 1\.1 to 1\.1, not 1: call sae\.eval\(\)"):
        read(found)
    torch.save(state | {"encoder.final_block.1.weight": torch.ones(H)}, found.path)
    with pytest.raises(InputError, match="only overcomplete's linear encoders"):
        read(found)


def test_a_state_dict_without_an_encoder_is_refused(tmp_path):
    found = foreign.overcomplete(tmp_path / "sae.pt", "TopKSAE", "tied")
    state = torch.load(found.path, weights_only=True)
    # This is the form of a matching pursuit, whose codes are no product with the atoms.
    torch.save({n: t for n, t in state.items() if n.startswith("dictionary.")}, found.path)
    with pytest.raises(InputError, match=r"has no encoder: .* Matching pursuits"):
        read(found)


def test_two_numbers_of_active_latents_are_refused(tmp_path):
    found = foreign.dictionary_learning(tmp_path, "AutoEncoderTopK")
    config = json.loads((tmp_path / "config.json").read_text())
    config["trainer"]["k"] = K + 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"trainer\.k is 5, but .*ae\.pt says 4"):
        read(found)
    del config["trainer"]["k"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read(found).k == K


def test_a_tensor_of_another_shape_than_asked_for_is_refused(tmp_path):
    torch.save({"full": torch.ones(2, 3), "empty": torch.ones(0, 3)}, tmp_path / "sae.pt")
    tensors = Tensors(tmp_path / "sae.pt")
    assert torch.equal(tensors.take("full", None, 3), torch.ones(2, 3).double())
    for name, *shape in (("full", 2), ("full", 2, 4), ("full", 2, 3, 1), ("empty", None, 3)):
        with pytest.raises(InputError, match=rf"sae\.pt: {name} has shape"):
            tensors.take(name, *shape)


@pytest.mark.parametrize("k", [0, -1, 2.5, 1 << 31, float("nan"), True, "4", None])
def test_a_k_that_is_no_whole_number_of_at_least_1_is_refused(k):
    with pytest.raises(InputError, match="not a whole number of at least 1"):
        whole_number(k, "k")
    assert [whole_number(good, "k") for good in (1, 4.0, (1 << 31) - 1)] == [1, 4, (1 << 31) - 1]


def test_weights_without_their_configuration_are_refused(tmp_path):
    found = foreign.dictionary_learning(tmp_path, "AutoEncoder")
    with pytest.raises(InputError, match="give the folder that holds both"):
        read(replace(found, path=found.weights))
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json is missing; download the SAE"):
        read(found)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="a folder with no weights"):
        read(found, path=str(tmp_path / "empty"))


def test_a_configuration_that_was_changed_is_refused(tmp_path):
    found = foreign.saelens(tmp_path, "topk", {"architecture": "topk", "k": 4})
    digest = found.digest
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"k": 5}))
    with pytest.raises(InputError, match=rf"sha256sum` gives {found.digest}, not {digest}"):
        read(found, sha256=digest)


def published(path):
    """Write a state dict as Mammo-SAE's training leaves it; return it."""
    random = torch.Generator().manual_seed(15)
    bias = torch.randn(1, D, generator=random)
    decoder = torch.randn(1, D, H, generator=random)
    state = {
        "tied_bias": bias,
        "pre_encoder_bias._bias_reference": bias,
        "encoder._weight": torch.randn(1, H, D, generator=random),
        "encoder._bias": torch.randn(1, H, generator=random),
        "decoder._weight": decoder / decoder.norm(dim=1, keepdim=True),
        "post_decoder_bias._bias_reference": bias,
    }
    torch.save(state, path)
    return state


def mammo_sae(path: Path, state: dict[str, torch.Tensor]) -> Foreign:
    def encode(x):
        bias, weight = state["tied_bias"][0].double(), state["encoder._weight"][0].double()
        return ((x - bias) @ weight.t() + state["encoder._bias"][0].double()).relu()

    return Foreign(path, path, state["decoder._weight"][0].t(), state["tied_bias"][0], encode)


def test_published_mammo_sae_weights_code_by_their_formula(tmp_path):
    found = mammo_sae(tmp_path / "final.pt", published(tmp_path / "final.pt"))
    assert_codes_as(found, read(found))


def test_several_components_are_refused(tmp_path):
    state = published(tmp_path / "two.pt")
    state = {name: tensor.expand(2, *tensor.shape[1:]).clone() for name, tensor in state.items()}
    torch.save(state, tmp_path / "two.pt")
    with pytest.raises(InputError, match="holds 2 components; only one can be read"):
        read(mammo_sae(tmp_path / "two.pt", state))


class Trap:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_that_holds_code_runs_none_of_it(tmp_path, capsys):
    state = published(tmp_path / "evil.pt")
    torch.save(state | {"tied_bias": Trap()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"evil\.pt: tied_bias is no tensor"):
        read(mammo_sae(tmp_path / "evil.pt", state))
    torch.save(Trap(), tmp_path / "whole.pt")
    with pytest.raises(InputError, match=r"whole\.pt is no state dict"):
        read(mammo_sae(tmp_path / "whole.pt", state))
    assert "code ran" not in capsys.readouterr().out


def test_another_state_dict_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt has neither tied_bias .*, only weight"):
        read(mammo_sae(tmp_path / "other.pt", {"decoder._weight": torch.zeros(1, 1, 1),
                                               "tied_bias": torch.zeros(1, 1)}))  # fmt: skip


def test_values_that_are_no_numbers_are_refused_by_name(tmp_path):
    found = foreign.saelens(tmp_path, "standard", {})
    tensors = load_file(found.weights)
    tensors["b_enc"][3] = torch.nan
    save_file(tensors, found.weights)
    with pytest.raises(InputError, match="b_enc holds NaN or infinity"):
        read(found)
