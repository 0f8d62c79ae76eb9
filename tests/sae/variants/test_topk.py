from __future__ import annotations

import pytest
import torch

from mammo_sae.sae.settings import SaeTraining, TopKVariant
from mammo_sae.sae.variants.base import Start
from mammo_sae.sae.variants.topk import TopK

NONE = torch.empty(0, dtype=torch.int64)


def make(h: int, d: int, *, k: int, k_aux: int = 0, aux_weight: float = 0.0) -> TopK:
    variant = TopKVariant(k=k, k_aux=k_aux, aux_weight=aux_weight)
    start = Start(torch.zeros(1, d), scale=1.0, dtype=torch.float32)
    return TopK(SaeTraining(variant=variant, latents=h), start)


def test_loss_and_gradients_of_a_case_worked_by_hand():
    training = make(3, 2, k=1)
    p = training.parameters
    p["encoder_weight"].copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    p["encoder_bias"].copy_(torch.tensor([0.0, 0.5, 0.0]))
    p["decoder_weight"].copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    # u = (1, 0): p = (2, .5, -1), latent 0 with 2, u_hat = (2, 0), residual (1, 0).
    # u = (0, 3): p = (0, 3.5, 0), latent 1 with 3.5, u_hat = (0, 3.5), residual (0, .5).
    step = training.gradients(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), dead=NONE)
    assert float(step.loss) == pytest.approx((1 + 0.25) / 4)
    assert float(step.active) == 1
    assert step.fired.tolist() == [True, True, False]
    # dL/du_hat = 2 residual / 4: (.5, 0) and (0, .25); onto the atoms: .5 and .25.
    assert p["encoder_weight"].grad.tolist() == [[0.5, 0.0], [0.0, 0.75], [0.0, 0.0]]
    assert p["encoder_bias"].grad.tolist() == [0.5, 0.25, 0.0]
    assert p["decoder_bias"].grad.tolist() == [0.5, 0.25]
    # The decoder's gradient is along its atoms here, so nothing is left on the sphere.
    assert p["decoder_weight"].grad.abs().max() == 0


def reference_loss(p, u, dead, k, k_aux, aux_weight):
    """The docstring's formulas, dense, for automatic differentiation."""
    pre = u @ p["encoder_weight"].t() + p["encoder_bias"]
    z = torch.zeros_like(pre).scatter(1, pre.topk(k).indices, pre.topk(k).values).relu()
    residual = u - z @ p["decoder_weight"] - p["decoder_bias"]
    loss = residual.square().mean()
    if dead.any():
        of_dead = pre.masked_fill(~dead, -torch.inf)
        top = of_dead.topk(min(k_aux, int(dead.sum())))
        z_aux = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
        miss = z_aux @ p["decoder_weight"] - residual.detach()
        loss = loss + aux_weight * miss.square().mean()
    return loss


@pytest.mark.parametrize("dead_latents", [0, 3, 11])
def test_gradients_equal_automatic_ones(dead_latents):
    h, d, k, k_aux, aux_weight = 40, 9, 4, 5, 0.25
    random = torch.Generator().manual_seed(4)
    training = make(h, d, k=k, k_aux=k_aux, aux_weight=aux_weight)
    for parameter in training.parameters.values():
        parameter += 0.1 * torch.randn(parameter.shape, generator=random)
    training.constrain()
    u = torch.randn(64, d, generator=random)
    dead = torch.arange(h) < dead_latents

    exact = {n: p.double().requires_grad_() for n, p in training.parameters.items()}
    loss = reference_loss(exact, u.double(), dead, k, k_aux, aux_weight)
    loss.backward()
    atoms = exact["decoder_weight"]
    radial = (atoms.grad * atoms).sum(dim=1, keepdim=True) * atoms
    atoms.grad -= radial.detach()

    step = training.gradients(u, dead.nonzero().squeeze(1))
    assert float(step.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, parameter in training.parameters.items():
        torch.testing.assert_close(
            parameter.grad.double(), exact[name].grad, rtol=1e-4, atol=1e-7, msg=name
        )


def test_the_auxiliary_loss_reaches_dead_latents_alone():
    random = torch.Generator().manual_seed(5)
    u = torch.randn(50, 6, generator=random)
    dead = torch.arange(20) >= 15
    plain, helped = make(20, 6, k=2), make(20, 6, k=2, k_aux=3, aux_weight=1.0)
    for training in (plain, helped):
        training.gradients(u, dead.nonzero().squeeze(1))
    for name in ("encoder_weight", "encoder_bias", "decoder_weight"):
        moved = (plain.parameters[name].grad != helped.parameters[name].grad).reshape(20, -1)
        assert moved.any(dim=1).tolist() == dead.tolist(), name


def test_atoms_stay_on_the_unit_sphere():
    training = make(10, 4, k=2)
    training.parameters["decoder_weight"].mul_(3)
    training.constrain()
    norms = training.parameters["decoder_weight"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(10))


def test_folding_keeps_codes_and_reconstruction_in_raw_units():
    random = torch.Generator().manual_seed(6)
    training = make(24, 6, k=3)
    for parameter in training.parameters.values():
        parameter += 0.1 * torch.randn(parameter.shape, generator=random)
    training.constrain()
    mean, scale = torch.randn(6, generator=random) * 5, 0.25
    x = torch.randn(40, 6, generator=random) * 4 + mean
    sae = training.folded(mean, scale)
    index, value = sae.encoder()(x)
    p, u = training.parameters, scale * (x - mean)
    pre = u @ p["encoder_weight"].t() + p["encoder_bias"]
    z = torch.zeros_like(pre).scatter(1, pre.topk(3).indices, pre.topk(3).values).relu()
    raw = (z @ p["decoder_weight"] + p["decoder_bias"]) / scale + mean
    torch.testing.assert_close(sae.decode(index, value), raw, rtol=1e-4, atol=1e-4)
    dense = torch.zeros(40, 24).scatter_add(1, index, value)
    torch.testing.assert_close(dense, z / scale, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae.decoder_weight.norm(dim=1), torch.ones(24))
