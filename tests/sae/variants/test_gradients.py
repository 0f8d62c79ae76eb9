"""Every variant's hand-written loss and gradients against its formulas, differentiated by torch.

The references below are written from the papers' formulas, dense and in float64.
"""

from __future__ import annotations

import pytest
import torch

from mammo_sae.sae import settings as s
from mammo_sae.sae.variants.archetypal import Archetypal
from mammo_sae.sae.variants.base import Start
from mammo_sae.sae.variants.batch_topk import BatchTopK
from mammo_sae.sae.variants.gated import Gated
from mammo_sae.sae.variants.jumprelu import JumpReLU
from mammo_sae.sae.variants.l1 import L1
from mammo_sae.sae.variants.matryoshka import Matryoshka

H, D, N, SCALE = 40, 9, 64, 0.7


def batch() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(20))


def make(cls, variant):
    random = torch.Generator().manual_seed(21)
    start = Start(batch(), SCALE, dtype=torch.float32)
    sae = cls(s.SaeTraining(variant=variant, latents=H, seed=3), start)
    for parameter in sae.parameters.values():
        parameter += 0.1 * torch.randn(parameter.shape, generator=random)
    sae.constrain()
    return sae


def pre(p, u):
    return u @ p["encoder_weight"].t() + p["encoder_bias"]


def rebuilt(p, z):
    return z @ p["decoder_weight"] + p["decoder_bias"]


def mse(a, b):
    return (a - b).square().mean()


def batch_topk(p, u, sae):
    x = pre(p, u).relu()
    smallest = x.flatten().topk(N * sae.settings.k).values.min()
    return mse(rebuilt(p, x * (x >= smallest)), u)


def matryoshka(p, u, sae):
    x = pre(p, u).relu()
    z = x * (x >= x.flatten().topk(N * sae.settings.k).values.min())
    # Shares 1, 1, 2 of 40 latents.
    parts = [torch.arange(H) < end for end in (10, 20, 40)]
    return sum(mse(rebuilt(p, z * part), u) for part in parts) / 3


def l1(p, u, sae):
    z = pre(p, u).relu()
    return mse(rebuilt(p, z), u) + sae.settings.l1 * SCALE * z.sum(dim=1).mean()


def gated(p, u, sae):
    linear = u @ p["encoder_weight"].t()
    gate = linear + p["gate_bias"]
    magnitude = linear * p["log_gain"].exp() + p["encoder_bias"]
    frozen = {name: tensor.detach() for name, tensor in p.items()}
    return (
        mse(rebuilt(p, magnitude.relu() * (gate > 0)), u)
        + sae.settings.l1 * SCALE * gate.relu().sum(dim=1).mean()
        + mse(rebuilt(frozen, gate.relu()), u)
    )


CASES = {
    "batch_topk": (BatchTopK, s.BatchTopKVariant(k=4, k_aux=0), batch_topk),
    "matryoshka": (Matryoshka, s.MatryoshkaVariant(k=4, k_aux=0, groups=[1, 1, 2]), matryoshka),
    "l1": (L1, s.L1Variant(l1=0.03), l1),
    "gated": (Gated, s.GatedVariant(l1=0.03), gated),
}


def without_radial(p):
    atoms = p["decoder_weight"]
    radial = (atoms.grad * atoms).sum(dim=1, keepdim=True) * atoms
    atoms.grad = atoms.grad - radial.detach()


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_follow_the_formulas(name):
    cls, variant, reference = CASES[name]
    sae, u = make(cls, variant), batch()
    exact = {n: p.double().requires_grad_() for n, p in sae.parameters.items()}
    loss = reference(exact, u.double(), sae)
    loss.backward()
    without_radial(exact)
    step = sae.gradients(u, torch.empty(0, dtype=torch.int64))
    assert float(step.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
    for n, parameter in sae.parameters.items():
        torch.testing.assert_close(
            parameter.grad.double(), exact[n].grad, rtol=1e-4, atol=1e-7, msg=n
        )


class Rectangle(torch.autograd.Function):
    """Value and pseudo-derivatives of JumpReLU and of its step, as given in the paper."""

    @staticmethod
    def forward(ctx, x, theta, width, jump):
        ctx.save_for_backward(x, theta)
        ctx.width, ctx.jump = width, jump
        return x * (x > theta) if jump else (x > theta).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, theta = ctx.saved_tensors
        window = ((x - theta) / ctx.width).abs() < 0.5
        height = theta if ctx.jump else torch.ones_like(theta)
        through = grad * (x > theta) if ctx.jump else None
        return through, -(height / ctx.width * window * grad).sum(dim=0), None, None


def test_jumprelu_follows_its_straight_through_estimates():
    variant = s.JumpReLUVariant(k=4, l0_weight=0.3, threshold=0.4, bandwidth=0.3)
    sae, u = make(JumpReLU, variant), batch()
    exact = {n: p.double().requires_grad_() for n, p in sae.parameters.items()}
    theta, x = exact["log_threshold"].exp(), pre(exact, u.double())
    z = Rectangle.apply(x, theta, 0.3, True)
    active = Rectangle.apply(x, theta, 0.3, False).sum(dim=1).mean()
    loss = mse(rebuilt(exact, z), u.double()) + 0.3 * (active / 4 - 1).square()
    loss.backward()
    without_radial(exact)
    step = sae.gradients(u, torch.empty(0, dtype=torch.int64))
    assert float(step.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert float(step.active) == pytest.approx(float(active.detach()))
    for n, parameter in sae.parameters.items():
        torch.testing.assert_close(
            parameter.grad.double(), exact[n].grad, rtol=1e-4, atol=1e-7, msg=n
        )


def test_archetypal_gradients_go_through_the_making_of_the_atoms():
    variant = s.ArchetypalVariant(k=4, k_aux=0, candidates=12, relaxation=0.2)
    sae, u = make(Archetypal, variant), batch()
    exact = {n: p.double().requires_grad_() for n, p in sae.parameters.items()}
    made = exact["mixture"] @ sae._centroids.double() + exact["relaxation"]
    p = {**exact, "decoder_weight": made / made.norm(dim=1, keepdim=True)}
    x = pre(p, u.double()).relu()
    top = x.topk(4)
    z = torch.zeros_like(x).scatter(1, top.indices, top.values)
    loss = mse(rebuilt(p, z), u.double())
    loss.backward()
    step = sae.gradients(u, torch.empty(0, dtype=torch.int64))
    assert float(step.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
    for n, parameter in sae.parameters.items():
        torch.testing.assert_close(
            parameter.grad.double(), exact[n].grad, rtol=1e-4, atol=1e-7, msg=n
        )
