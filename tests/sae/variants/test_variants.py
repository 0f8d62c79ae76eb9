"""Properties of all variants, and the additions of each to the shared loop."""

from __future__ import annotations

import pytest
import torch

from mammo_sae.sae import settings as s
from mammo_sae.sae.model import Encoder
from mammo_sae.sae.trainer import Training
from mammo_sae.sae.variants.archetypal import centroids
from mammo_sae.sae.variants.base import Start
from mammo_sae.sae.variants.choice import computed_sae, training_sae
from mammo_sae.steps import VARIANT

D, H = 10, 40
VARIANTS = {
    "topk": s.TopKVariant(k=3, k_aux=4),
    "batch_topk": s.BatchTopKVariant(k=3, k_aux=4),
    "matryoshka": s.MatryoshkaVariant(k=3, k_aux=4),
    "archetypal": s.ArchetypalVariant(k=3, k_aux=4, candidates=60, relaxation=0.2),
    "l1": s.L1Variant(l1=0.02),
    "mammo_sae": s.MammoSaeVariant(l1=0.02, resample_every=0.2, resample_cells=400),
    "jumprelu": s.JumpReLUVariant(k=3),
    "gated": s.GatedVariant(l1=0.02),
    **{
        f"random, frozen {part}": s.RandomVariant(k=3, k_aux=4, frozen=part)
        for part in ("decoder", "encoder", "soft", "both")
    },
}
COMPUTED = {
    "channels": s.ChannelsVariant(k=3),
    "pca": s.PCAVariant(k=3),
    "nmf": s.NMFVariant(k=3),
}
# Least explained variance after 300 steps, and least gain over these steps, of the variants that
# explain less than the others.
LEAST = {"random, frozen encoder": (0.7, 0.3), "random, frozen both": (0.35, 0.05)}


def mixtures(count: int, seed: int) -> torch.Tensor:
    """Cells made of 3 of 20 fixed atoms each, scaled to E ||u||^2 = d."""
    random = torch.Generator().manual_seed(seed)
    atoms = torch.randn(20, D, generator=torch.Generator().manual_seed(0))
    codes = torch.rand(count, 20, generator=random) + 0.5
    codes *= torch.zeros_like(codes).scatter(
        1, torch.rand(count, 20, generator=random).topk(3).indices, 1.0
    )
    u = codes @ atoms
    u -= u.mean(dim=0)
    return u * (D / u.square().sum(dim=1).mean()) ** 0.5


def trained(name: str, steps: int = 300) -> Training:
    settings = s.SaeTraining(
        variant=VARIANTS[name], latents=H, lr=1e-2, steps=steps, batch=256, dead_after=0.1
    )
    start = Start(mixtures(1000, seed=1), scale=1.0, dtype=torch.float32)
    training = Training(settings, training_sae(settings, start))
    for step in range(steps):
        training.advance(mixtures(256, seed=100 + step))
    return training


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_learns_and_its_saved_form_codes_as_it_was_trained(name):
    training = trained(name)
    log = training.log
    least, gain = LEAST.get(name, (0.8, 0.2))
    assert log[-1]["explained_variance"] > least
    assert log[-1]["explained_variance"] > log[0]["explained_variance"] + gain
    raw = training.sae.raw
    mean, scale = (torch.zeros(D), 1.0) if raw else (torch.full((D,), 3.0), 0.5)
    sae = training.sae.folded(mean, scale)
    torch.testing.assert_close(sae.decoder_weight.norm(dim=1), torch.ones(H))
    u = mixtures(2000, seed=5)
    x = u / scale + mean
    index, value = Encoder(sae)(x)
    missed = (x - sae.decode(index, value)).square().sum()
    explained = 1 - float(missed / (x - x.mean(dim=0)).square().sum())
    assert explained == pytest.approx(log[-1]["explained_variance"], abs=0.05)
    l0 = float((value > 0).sum() / len(x))
    assert l0 == pytest.approx(log[-1]["l0"], rel=0.15)


def test_every_variant_of_the_settings_is_made_here_but_the_published_one():
    here = {variant.name for variant in (*VARIANTS.values(), *COMPUTED.values())}
    assert set(VARIANT.names) == {*here, "published"}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_variant_has_folded_weights_of_its_own_that_code_alike(name):
    settings = s.SaeTraining(variant=COMPUTED[name], latents=2 * D)
    u, mean, scale = mixtures(1000, seed=1), torch.full((D,), 3.0), 0.5
    made = computed_sae(settings, Start(u, scale=1.0))
    plain, folded = made.folded(torch.zeros(D), 1.0), made.folded(mean, scale)
    torch.testing.assert_close(folded.decoder_weight.norm(dim=1), torch.ones(2 * D))
    index, value = plain.encoder()(u)
    folded_index, folded_value = folded.encoder()(u / scale + mean)
    torch.testing.assert_close(folded_value, value / scale, rtol=1e-4, atol=1e-4)
    assert (folded_index == index).double().mean() > 0.999
    folded.decoder_weight.zero_()
    assert torch.equal(made.folded(mean, scale).decoder_weight, plain.decoder_weight)


def test_jumprelu_reaches_its_target_number_of_active_latents():
    assert trained("jumprelu").log[-1]["l0"] == pytest.approx(3, rel=0.2)


def test_batch_topk_spends_more_latents_where_they_are_needed():
    training = trained("batch_topk", steps=100)
    u = mixtures(256, seed=9)
    u[:128] *= 0.2
    _, value = training.sae.select(u)
    used = (value > 0).sum(dim=1).float()
    assert float(used.mean()) == pytest.approx(3, abs=0.1)
    assert used[128:].mean() > used[:128].mean() + 1


def test_the_inner_group_of_a_matryoshka_reconstructs_alone():
    explained = {}
    for name in ("matryoshka", "batch_topk"):
        sae = trained(name).sae.folded(torch.zeros(D), 1.0)
        u = mixtures(2000, seed=5)
        index, value = Encoder(sae)(u)
        inner = sae.decode(index, value * (index < round(H * 3 / 16)))
        explained[name] = float(1 - (u - inner).square().sum() / u.square().sum())
    assert explained["matryoshka"] > explained["batch_topk"] + 0.1


def test_l1_resamples_dead_latents_and_clears_their_adam_state():
    settings = s.SaeTraining(
        variant=s.L1Variant(l1=0.01, resample_every=0.5), latents=H, lr=1e-2, steps=10,
        batch=256, dead_after=0.1, decay=0.0,
    )  # fmt: skip
    start = Start(u := mixtures(300, seed=1), scale=1.0, dtype=torch.float32)
    training = Training(settings, training_sae(settings, start))
    p = training.sae.parameters
    p["encoder_bias"][:5] = -100.0
    for step in range(4):
        training.advance(mixtures(256, seed=step))
    assert (p["encoder_bias"][:5] < -50).all()
    training.advance(mixtures(256, seed=5))
    assert (p["encoder_bias"][:5] == 0).all()
    # Each new atom is the direction of a cell of the sample, its encoder row a fifth as long as
    # the others.
    cosine = p["decoder_weight"][:5] @ (u / u.norm(dim=1, keepdim=True)).t()
    torch.testing.assert_close(cosine.amax(dim=1), torch.ones(5))
    length = p["encoder_weight"].norm(dim=1)
    torch.testing.assert_close(length[:5], 0.2 * length[5:].mean().expand(5))
    for name in ("encoder_weight", "decoder_weight", "encoder_bias"):
        state = training.optimiser.state[p[name]]
        assert (state["exp_avg"][:5] == 0).all(), name
        assert (state["exp_avg_sq"][:5] == 0).all(), name
        assert (state["exp_avg"][5:] != 0).any(), name


def test_archetypal_atoms_point_into_the_hull_up_to_the_relaxation():
    training = trained("archetypal", steps=100)
    p = training.sae.parameters
    assert (p["mixture"] >= 0).all()
    torch.testing.assert_close(p["mixture"].sum(dim=1), torch.ones(H))
    assert p["relaxation"].norm(dim=1).max() <= 0.2 * D**0.5 * (1 + 1e-5)
    # The mixture has moved away from the single centroid it started at.
    assert (p["mixture"] > 0.01).sum(dim=1).float().mean() > 1


def test_centroids_are_the_means_of_separate_clusters():
    random = torch.Generator().manual_seed(2)
    corners = torch.tensor([[10.0, 0.0], [0.0, 10.0], [-10.0, -10.0]])
    cells = corners.repeat(50, 1) + 0.1 * torch.randn(150, 2, generator=random)
    found = centroids(cells, 3, torch.Generator().manual_seed(4))
    distance = torch.cdist(corners, found).amin(dim=1)
    assert (distance < 0.1).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_restored_run_goes_on_as_if_it_had_not_stopped(name):
    whole, half = trained(name, steps=20), trained(name, steps=20)
    settings = half.settings
    start = Start(mixtures(1000, seed=1), scale=1.0, dtype=torch.float32)
    first = Training(settings, training_sae(settings, start))
    for step in range(11):
        first.advance(mixtures(256, seed=100 + step))
    second = Training(settings, training_sae(settings, start))
    second.restore(first.state())
    for step in range(11, 20):
        second.advance(mixtures(256, seed=100 + step))
    for parameter, expected in whole.sae.parameters.items():
        assert torch.equal(second.sae.parameters[parameter], expected), parameter
    assert second.log == whole.log


@pytest.mark.parametrize("name", VARIANTS)
def test_folding_twice_equals_folding_once_and_keeps_the_input(name):
    training = trained(name, steps=20)
    unfolded = training.sae
    before = {
        part: {key: tensor.clone() for key, tensor in getattr(unfolded, part).items()}
        for part in ("parameters", "buffers")
    }
    mean, scale = torch.full((D,), 3.0), 0.5
    once, twice = unfolded.folded(mean, scale), unfolded.folded(mean, scale)
    for key, tensor in once.tensors().items():
        assert torch.equal(tensor, twice.tensors()[key]), key
    for part, kept in before.items():
        assert getattr(unfolded, part).keys() == kept.keys()
        for key, tensor in kept.items():
            assert torch.equal(getattr(unfolded, part)[key], tensor), key
    # A returned SAE belongs to the caller, and further steps do not change it.
    kept = {key: tensor.clone() for key, tensor in once.tensors().items()}
    training.settings = training.settings.model_copy(update={"steps": 40})
    training.advance(mixtures(256, seed=77))
    for key, tensor in kept.items():
        assert torch.equal(once.tensors()[key], tensor), key


@pytest.mark.parametrize("name", VARIANTS)
def test_the_folded_weights_are_the_documented_ones(name):
    """x -> scale (x - mean) -> the variant's own formula -> back, in float64."""
    training = trained(name, steps=20)
    p = {key: tensor.double() for key, tensor in training.sae.parameters.items()}
    mean, scale = torch.linspace(-2, 5, D), 0.7
    sae = training.sae.folded(mean, scale)
    linear = p["encoder_weight"]
    if name == "gated":
        linear = linear * p["log_gain"].exp().unsqueeze(1)
    if name == "mammo_sae":  # one bias, on both sides, of raw embeddings
        mean, scale = torch.zeros(D), 1.0
        sae = training.sae.folded(mean, scale)
        p["encoder_bias"] = p["encoder_bias"] - linear @ p["decoder_bias"]
    if name == "random, frozen encoder":
        linear = linear * p["decoder_weight"].norm(dim=1, keepdim=True)
        torch.testing.assert_close(
            sae.encoder_weight * sae.selection.unsqueeze(1),
            training.sae.parameters["encoder_weight"],
        )
    bias = p["encoder_bias"] / scale - linear @ mean.double()
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(sae.encoder_weight.double(), linear, **close)
    torch.testing.assert_close(sae.encoder_bias.double(), bias, **close)
    torch.testing.assert_close(sae.decoder_bias.double(), p["decoder_bias"] / scale + mean, **close)
    expected = {
        "l1": lambda: torch.zeros(H),
        "mammo_sae": lambda: torch.zeros(H),
        "jumprelu": lambda: p["log_threshold"].exp(),
        "gated": lambda: (p["encoder_bias"] - p["log_gain"].exp() * p["gate_bias"]).clamp(min=0),
        "batch_topk": lambda: training.sae.buffers["threshold"].expand(H),
        "matryoshka": lambda: training.sae.buffers["threshold"].expand(H),
    }
    if name in expected:
        torch.testing.assert_close(
            sae.threshold.double(), expected[name]().double() / scale, **close
        )
    else:
        assert sae.k == 3
