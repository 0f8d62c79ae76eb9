"""The variant `mammo_sae` is compared with Mammo-SAE's published equations, via autograd.

The reference is written only from the description of the public code: torch.nn parameters,
autograd, torch.optim.Adam, a hook that removes the decoder's radial gradient, and columns of norm 1
after each step.
"""

from __future__ import annotations

import pytest
import torch

from mammo_sae.errors import InputError
from mammo_sae.sae import settings as s
from mammo_sae.sae.trainer import Training
from mammo_sae.sae.variants.base import Start
from mammo_sae.sae.variants.mammo_sae import MammoSae, draw

D, H, N = 12, 60, 64


class Published(torch.nn.Module):
    """Weights [1, h, d] and [1, d, h] with a component axis, as in the published state dict."""

    def __init__(self, start: dict[str, torch.Tensor], l1: float) -> None:
        super().__init__()
        self.l1 = l1
        self.tied_bias = torch.nn.Parameter(start["decoder_bias"][None].clone())
        self.weight = torch.nn.Parameter(start["encoder_weight"][None].clone())
        self.bias = torch.nn.Parameter(start["encoder_bias"][None].clone())
        self.decoder = torch.nn.Parameter(start["decoder_weight"].t()[None].clone())
        self.decoder.register_hook(self._tangent)
        self.optimiser = torch.optim.Adam(self.parameters(), lr=5e-4, betas=(0.9, 0.999))

    def _tangent(self, gradient: torch.Tensor) -> torch.Tensor:
        unit = self.decoder.detach() / self.decoder.detach().norm(dim=-2, keepdim=True)
        return gradient - (gradient * unit).sum(dim=-2, keepdim=True) * unit

    def losses(self, x: torch.Tensor) -> torch.Tensor:
        z = ((x - self.tied_bias) @ self.weight[0].t() + self.bias).relu()
        rebuilt = z @ self.decoder[0].t() + self.tied_bias
        return (rebuilt - x).square().mean(dim=-1) + self.l1 * z.abs().sum(dim=-1)

    def step(self, x: torch.Tensor) -> float:
        self.optimiser.zero_grad()
        loss = self.losses(x).mean()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            self.decoder.copy_(torch.nn.functional.normalize(self.decoder, dim=-2))
        return float(loss.detach())


def settings(**changes) -> s.SaeTraining:
    variant = s.MammoSaeVariant(**{"resample_cells": 256, **changes.pop("variant", {})})
    given = {"latents": H, "lr": 5e-4, "warm_up": 0.0, "decay": 0.0, "steps": 50, "seed": 2}
    return s.SaeTraining(variant=variant, **{**given, **changes})


def batch(number: int) -> torch.Tensor:
    """Raw cells: above 0 and with a large common part, as after a swish."""
    random = torch.Generator().manual_seed(number)
    return torch.randn(N, D, generator=random).mul(2).add(1.5).clamp(min=-0.28)


def training(own: s.SaeTraining) -> Training:
    # A processor that is fastest in bfloat16 also trains this variant in float32.
    return Training(own, MammoSae(own, Start(batch(0), 1.0, torch.bfloat16)))


@pytest.mark.parametrize("l1", [3e-5, 0.01])
def test_fifty_steps_from_the_same_start_are_the_published_ones(l1):
    ours = training(settings(variant={"l1": l1, "resample_every": 1}))
    p = ours.sae.parameters
    theirs = Published(p, l1)
    for number in range(50):
        expected = theirs.step(batch(number))
        ours.advance(batch(number))
        if ours.log and ours.log[-1]["step"] == number + 1:
            assert ours.log[-1]["loss"] == pytest.approx(expected, rel=1e-5)
    assert len(ours.log) == 50
    for name, parameter in (
        ("encoder_weight", theirs.weight[0]), ("encoder_bias", theirs.bias[0]),
        ("decoder_weight", theirs.decoder[0].t()), ("decoder_bias", theirs.tied_bias[0]),
    ):  # fmt: skip
        difference = (p[name] - parameter.detach()).abs().max() / parameter.detach().abs().max()
        assert difference < 1e-4, name
    # The bias also has a gradient from the encoder. Without it the bias would be different.
    assert float(p["decoder_bias"].abs().max()) > 1e-3
    x = batch(99)
    torch.testing.assert_close(ours.sae.losses(x), theirs.losses(x).detach(), rtol=1e-4, atol=0)


def test_the_start_is_the_published_one():
    """bound = sqrt(6 / fan_in) with fan_in h d; bias within 1 / sqrt(h); b = 0; unit columns."""
    own = settings(latents=3000)
    p = training(own).sae.parameters
    torch.manual_seed(0)
    theirs = torch.empty(1, 3000, D)
    torch.nn.init.kaiming_uniform_(theirs, nonlinearity="relu")
    rows, expected = p["encoder_weight"].norm(dim=1), theirs[0].norm(dim=1)
    assert float(rows.mean()) == pytest.approx(float(expected.mean()), rel=0.02)
    assert float(rows.mean()) == pytest.approx((2 / 3000) ** 0.5, rel=0.03)
    assert float(p["encoder_weight"].abs().max()) == pytest.approx(
        float(theirs.abs().max()), rel=0.01
    )
    assert float(p["encoder_bias"].abs().max()) == pytest.approx(3000**-0.5, rel=0.01)
    assert not p["decoder_bias"].any()
    torch.testing.assert_close(p["decoder_weight"].norm(dim=1), torch.ones(3000))
    # The weights are untied, so a row is independent of its atom.
    cosine = torch.nn.functional.cosine_similarity(p["encoder_weight"], p["decoder_weight"])
    assert abs(float(cosine.mean())) < 0.03


def test_latents_that_did_not_fire_start_anew_from_raw_cells_with_cleared_moments():
    ours = training(settings(steps=20, variant={"resample_every": 0.25, "l1": 0.01}))
    p = ours.sae.parameters
    p["encoder_bias"][:5] = -100.0
    seen = [batch(number) for number in range(5)]
    for x in seen[:4]:
        ours.advance(x)
    assert (p["encoder_bias"][:5] < -50).all()
    before = {name: tensor.clone() for name, tensor in p.items()}
    ours.advance(seen[4])
    assert not p["encoder_bias"][:5].any()
    # Of the 320 cells used, the last 256 may be drawn, and none twice.
    directions = torch.nn.functional.normalize(torch.cat(seen)[-256:], dim=1)
    cosine = p["decoder_weight"][:5] @ directions.t()
    torch.testing.assert_close(cosine.amax(dim=1), torch.ones(5))
    assert len(set(cosine.argmax(dim=1).tolist())) == 5
    length = p["encoder_weight"].norm(dim=1)
    torch.testing.assert_close(length[:5], 0.2 * length[5:].mean().expand(5))
    for name in ("encoder_weight", "decoder_weight", "encoder_bias"):
        state = ours.optimiser.state[p[name]]
        for moment in ("exp_avg", "exp_avg_sq"):
            assert not state[moment][:5].any(), name
            assert state[moment][5:].any(), name
    assert ours.optimiser.state[p["decoder_bias"]]["exp_avg"].any()
    assert (p["encoder_weight"][5:] - before["encoder_weight"][5:]).abs().max() < 0.01


@pytest.mark.parametrize(("every", "times"), [(0.1, 8), (0.05, 18), (0.25, 2), (0.5, 0), (1, 0)])
def test_a_run_is_resampled_as_often_as_published(every, times):
    """The public code resamples after epoch k f while (k + 1) f < epochs: 8 times for 10 of 100."""
    own = settings(steps=200, variant={"resample_every": every, "l1": 0.0})
    ours = training(own)
    steps = []
    for number in range(200):
        before = int(ours.sae.buffers["resampled"])
        ours.advance(batch(number))
        if int(ours.sae.buffers["resampled"]) > before:
            steps.append(number + 1)
    assert steps == [200 * every * (1 + done) for done in range(times)]


def test_cells_are_drawn_without_replacement_by_their_squared_loss():
    losses = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.5])
    share = losses.square() / losses.square().sum()
    runs = 20_000
    generator = torch.Generator().manual_seed(5)
    drawn = torch.stack([draw(losses, 2, generator) for _ in range(runs)])
    assert (drawn[:, 0] != drawn[:, 1]).all()
    first = torch.bincount(drawn[:, 0], minlength=5) / runs
    # Three standard deviations of a share of 20,000 are at most 0.011.
    assert (first - share).abs().max() < 0.011
    second = torch.zeros(5)
    for one in range(1, 5):
        rest = share.clone()
        rest[one] = 0
        second += share[one] * rest / rest.sum()
    assert (torch.bincount(drawn[:, 1], minlength=5) / runs - second).abs().max() < 0.011
    with pytest.raises(InputError, match="5 latents are to be resampled from 4 cells"):
        draw(losses, 5, generator)


def test_a_run_in_which_nothing_fires_stops():
    ours = training(settings(steps=20, variant={"resample_every": 0.25}))
    ours.sae.parameters["encoder_bias"].fill_(-100.0)
    with pytest.raises(InputError, match="no latent of the SAE has fired"):
        for number in range(6):
            ours.advance(batch(number))


def test_latents_are_resampled_with_more_cells_or_fewer_latents_as_advised():
    losses = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.5])
    generator = torch.Generator().manual_seed(5)
    with pytest.raises(InputError, match=r"raise variant.resample_cells, or lower latents$"):
        draw(losses, 5, generator)
    assert sorted(draw(losses, 4, generator).tolist()) == [1, 2, 3, 4]
    more = torch.cat([losses, torch.tensor([0.1])])
    assert sorted(draw(more, 5, generator).tolist()) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("lower", ["lr", "l1"])
def test_latents_fire_again_with_a_lower_rate_or_penalty_as_advised(lower):
    def run(lr: float, l1: float) -> None:
        ours = training(settings(steps=20, lr=lr, variant={"resample_every": 0.25, "l1": l1}))
        for number in range(20):
            ours.advance(batch(number))
        assert ours.sae.buffers["fired"].any()

    wrong = {"lr": 1.0, "l1": 1e3}
    with pytest.raises(InputError, match=r"has fired since .*; lower lr or variant\.l1$"):
        run(**wrong)
    run(**wrong | {lower: {"lr": 5e-4, "l1": 3e-5}[lower]})
