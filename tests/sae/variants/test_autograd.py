"""A variant that defines only a loss gets its gradients from autograd."""

from __future__ import annotations

import pytest
import torch

from mammo_sae.sae.settings import L1Variant, SaeTraining
from mammo_sae.sae.trainer import Training
from mammo_sae.sae.variants.base import Start, TrainingSAE
from mammo_sae.sae.variants.l1 import L1

D, H = 8, 24
SETTINGS = SaeTraining(variant=L1Variant(l1=0.02), latents=H, lr=1e-2, steps=100, batch=64)


class Plain(TrainingSAE):
    """The loss of `L1`, written by the formula of the module."""

    def loss(self, u):
        p = self.parameters
        codes = torch.relu(u @ p["encoder_weight"].T + p["encoder_bias"])
        reconstruction = codes @ p["decoder_weight"] + p["decoder_bias"]
        error = (reconstruction - u).square().mean()
        return error + self.settings.l1 * codes.sum() / len(u), reconstruction, codes

    def folded(self, mean, scale):
        return self.fold(mean, scale, threshold=torch.zeros(H))


class Unfinished(TrainingSAE):
    def folded(self, mean, scale):
        raise AssertionError


def cells(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def start() -> Start:
    return Start(cells(500, seed=0), scale=1.0, dtype=torch.float32)


def test_a_variant_that_is_only_a_loss_has_the_gradients_of_the_hand_written_one(start):
    plain, by_hand = Plain(SETTINGS, start), L1(SETTINGS, start)
    u, dead = cells(64, seed=1), torch.empty(0, dtype=torch.int64)
    found, expected = plain.gradients(u, dead), by_hand.gradients(u, dead)
    for name, parameter in by_hand.parameters.items():
        assert parameter.grad.norm() > 0, name
        torch.testing.assert_close(plain.parameters[name].grad, parameter.grad, msg=name)
        assert not plain.parameters[name].requires_grad
    for name in ("loss", "error", "active", "fired"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), msg=name)


def test_a_variant_that_is_only_a_loss_is_trained_as_the_hand_written_one(start):
    trainings = [Training(SETTINGS, kind(SETTINGS, start)) for kind in (Plain, L1)]
    for step in range(40):
        for training in trainings:
            training.advance(cells(64, seed=10 + step))
    plain, by_hand = (training.sae.folded(torch.zeros(D), 1.0) for training in trainings)
    for name, tensor in by_hand.tensors().items():
        torch.testing.assert_close(plain.tensors()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_a_variant_without_loss_and_gradients_is_named(start):
    with pytest.raises(NotImplementedError, match="Unfinished has neither `loss` nor `gradients`"):
        Unfinished(SETTINGS, start).gradients(cells(4, seed=1), torch.empty(0))
