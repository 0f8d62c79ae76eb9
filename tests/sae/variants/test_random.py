"""SAEs with a part frozen at its random start."""

from __future__ import annotations

import pytest
import torch

from mammo_sae.sae.model import Encoder
from mammo_sae.sae.settings import RandomVariant, SaeTraining, TopKVariant
from mammo_sae.sae.trainer import Training
from mammo_sae.sae.variants.base import Start
from mammo_sae.sae.variants.choice import training_sae
from mammo_sae.sae.variants.random import in_cone

D, H, K = 12, 48, 4
PARTS = ("encoder_weight", "encoder_bias", "decoder_weight", "decoder_bias")
FROZEN = {
    "decoder": {"decoder_weight"},
    "encoder": {"encoder_weight", "encoder_bias"},
    "soft": set(),
    "both": {"encoder_weight", "encoder_bias", "decoder_weight"},
}


def batch(number: int) -> torch.Tensor:
    """Cells with unequal variances, off the mean, so that the decoder's bias has to move."""
    random = torch.Generator().manual_seed(number)
    return torch.randn(256, D, generator=random) * torch.linspace(0.2, 1.5, D) + 0.3


def new(frozen: str, cosine: float = 0.8, *, seed: int = 3, lr: float = 1e-2) -> Training:
    variant = RandomVariant(k=K, k_aux=4, frozen=frozen, cosine=cosine)
    settings = SaeTraining(variant=variant, latents=H, lr=lr, steps=60, batch=256, seed=seed)
    return Training(settings, training_sae(settings, Start(batch(0), 1.0, dtype=torch.float32)))


def start_of(training: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.sae.parameters.items()}


def explained(sae, u: torch.Tensor) -> float:
    rest = u - sae.decode(*Encoder(sae)(u))
    return float(1 - rest.square().sum() / (u - u.mean(dim=0)).square().sum())


@pytest.mark.parametrize("frozen", FROZEN)
def test_a_frozen_part_keeps_every_bit_of_its_start_and_the_others_move(frozen):
    training = new(frozen)
    first = start_of(training)
    for step in range(60):
        training.advance(batch(step))
    for name in PARTS:
        same = torch.equal(training.sae.parameters[name], first[name])
        assert same == (name in FROZEN[frozen]), name


def test_the_start_is_the_one_of_topk_and_frozen_rows_have_norm_1():
    settings = SaeTraining(variant=TopKVariant(k=K, k_aux=4), latents=H, seed=3)
    topk = training_sae(settings, Start(batch(0), 1.0, dtype=torch.float32)).parameters
    for frozen in FROZEN:
        found = start_of(new(frozen))
        assert torch.equal(found["decoder_weight"], topk["decoder_weight"])
        longer = 5 if frozen in ("encoder", "both") else 1
        torch.testing.assert_close(found["encoder_weight"], longer * topk["encoder_weight"])
        assert not found["encoder_bias"].any()


@pytest.mark.parametrize("cosine", [0.5, 0.8, 0.99])
def test_a_soft_start_is_never_left_beyond_the_cosine(cosine):
    training = new("soft", cosine, lr=0.1)
    first = start_of(training)["decoder_weight"]
    least = []
    for step in range(60):
        training.advance(batch(step))
        atoms = training.sae.atoms
        torch.testing.assert_close(atoms.norm(dim=1), torch.ones(H))
        least.append(float(torch.linalg.vecdot(atoms, first).min()))
    assert min(least) >= cosine
    assert least[-1] == pytest.approx(cosine, abs=1e-5), "no atom has reached its cone"
    folded = training.sae.folded(torch.zeros(D), 1.0).decoder_weight
    assert float(torch.linalg.vecdot(folded, first).min()) >= cosine


def test_an_atom_outside_its_cone_moves_to_the_nearest_one_in_the_same_plane():
    axes = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])
    atoms = torch.tensor([[0.6, 0.8, 0], [0.8, 0.0, -0.6], [0.0, 1.0, 0.0]])
    moved = in_cone(atoms, axes, 0.75)
    nearest = torch.tensor([0.75, (1 - 0.75**2) ** 0.5, 0])
    torch.testing.assert_close(moved[0], nearest, rtol=0, atol=3e-6)
    assert torch.equal(moved[1:], atoms[1:])


def test_a_frozen_encoder_chooses_by_projection_and_decodes_with_trained_lengths():
    training = new("encoder")
    for step in range(60):
        training.advance(batch(step))
    p, u = training.sae.parameters, batch(99)
    mean, scale = torch.linspace(-1, 2, D), 0.5
    pre = u @ p["encoder_weight"].t()
    index = pre.topk(K).indices
    z = torch.zeros_like(pre).scatter(1, index, pre.gather(1, index)).relu()
    expected = (z @ p["decoder_weight"] + p["decoder_bias"]) / scale + mean
    sae = training.sae.folded(mean, scale)
    found, value = sae.encoder()(u / scale + mean)
    torch.testing.assert_close(sae.decode(found, value), expected, rtol=1e-4, atol=1e-4)
    dense = torch.zeros_like(pre).scatter_add(1, found, value)
    length = p["decoder_weight"].norm(dim=1)
    torch.testing.assert_close(dense, z * length / scale, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae.decoder_weight.norm(dim=1), torch.ones(H))
    assert (length - 1).abs().max() > 0.05


def test_an_untrained_sae_has_the_codes_of_its_start_and_only_its_bias_from_the_cells():
    one, other = new("both"), new("both")
    for step in range(60):
        one.advance(batch(step))
        other.advance(batch(step) * 2 - 1)
    a, b = (training.sae.folded(torch.zeros(D), 1.0) for training in (one, other))
    assert torch.equal(a.encoder_weight, b.encoder_weight)
    assert torch.equal(a.decoder_weight, b.decoder_weight)
    assert not torch.equal(a.decoder_bias, b.decoder_bias)
    another = new("both", seed=4).sae.folded(torch.zeros(D), 1.0)
    assert not torch.equal(a.decoder_weight, another.decoder_weight)


def test_less_is_explained_the_more_is_frozen():
    found, u = {}, batch(99)
    for frozen in FROZEN:
        training = new(frozen)
        for step in range(60):
            training.advance(batch(step))
        found[frozen] = explained(training.sae.folded(torch.zeros(D), 1.0), u)
    assert found["soft"] > found["decoder"] > found["both"]
    assert found["encoder"] > found["both"]
