from __future__ import annotations

import pytest
import torch

from mammo_sae.errors import InputError
from mammo_sae.sae.formats import read_mammo_sae, read_saelens, write_saelens
from mammo_sae.sae.model import Encoder, SparseAutoencoder
from mammo_sae.stores.publish import read_json, write_json

D, H = 6, 20


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


def dense(index, value):
    return torch.zeros(len(index), H).scatter_add(1, index, value)


def test_published_mammo_sae_weights_reconstruct_by_their_formula(tmp_path):
    state = published(tmp_path / "final.pt")
    sae = read_mammo_sae(tmp_path / "final.pt")
    x = torch.randn(30, D, generator=torch.Generator().manual_seed(16)) * 3
    bias, weight = state["tied_bias"][0], state["encoder._weight"][0]
    z = ((x - bias) @ weight.t() + state["encoder._bias"][0]).relu()
    index, value = Encoder(sae)(x)
    torch.testing.assert_close(dense(index, value), z, rtol=1e-4, atol=1e-4)
    expected = z @ state["decoder._weight"][0].t() + bias
    torch.testing.assert_close(sae.decode(index, value), expected, rtol=1e-4, atol=1e-4)


class Trap:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_that_holds_more_than_tensors_is_refused(tmp_path, capsys):
    torch.save({"tied_bias": Trap()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"evil\.pt is not a plain state dict of tensors"):
        read_mammo_sae(tmp_path / "evil.pt")
    assert "code ran" not in capsys.readouterr().out


def test_another_state_dict_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt has no tensor 'tied_bias'"):
        read_mammo_sae(tmp_path / "other.pt")


def make(threshold):
    random = torch.Generator().manual_seed(17)
    return SparseAutoencoder(
        encoder_weight=torch.randn(H, D, generator=random),
        encoder_bias=torch.randn(H, generator=random),
        decoder_weight=torch.randn(H, D, generator=random),
        decoder_bias=torch.randn(D, generator=random),
        k=4 if threshold is None else None,
        threshold=None if threshold is None else torch.full((H,), threshold),
    )


@pytest.mark.parametrize("threshold", [None, 0.5], ids=["topk", "jumprelu"])
def test_an_sae_survives_saelens_layout(tmp_path, threshold):
    sae = make(threshold)
    write_saelens(sae, tmp_path)
    again = read_saelens(tmp_path)
    assert again.k == sae.k
    for name, tensor in sae.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name


def test_a_saelens_bias_on_the_input_is_folded(tmp_path):
    sae = make(0.5)
    write_saelens(sae, tmp_path)
    config = read_json(tmp_path / "cfg.json")
    write_json(tmp_path / "cfg.json", {**config, "apply_b_dec_to_input": True})
    again = read_saelens(tmp_path)
    x = torch.randn(10, D, generator=torch.Generator().manual_seed(18))
    before = (x - sae.decoder_bias) @ sae.encoder_weight.t() + sae.encoder_bias
    after = x @ again.encoder_weight.t() + again.encoder_bias
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"architecture": "gated"}, "architecture 'gated' can't be read"),
        ({"normalize_activations": "layer_norm"}, 'normalize_activations = "layer_norm"'),
    ],
)
def test_what_cannot_be_folded_is_refused(tmp_path, change, complaint):
    write_saelens(make(None), tmp_path)
    write_json(tmp_path / "cfg.json", {**read_json(tmp_path / "cfg.json"), **change})
    with pytest.raises(InputError, match=complaint):
        read_saelens(tmp_path)
