"""Edits and heat maps of a vision transformer that is cut at a layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import vits
from mammo_sae.analysis.patching import PatchedNetwork
from mammo_sae.analysis.saliency_maps import CutNetwork, saliency_maps
from mammo_sae.encoders.heads import Head
from mammo_sae.encoders.network import load_encoder
from mammo_sae.sae.model import SparseAutoencoder

HEIGHT, WIDTH, CHANNELS, LATENTS, SLOTS = 64, 48, 48, 24, 3
PLACES = [
    ("dinov2_with_registers", "cls", "blocks.0"),
    ("dinov3_vit", "mean", "blocks.0"),
    ("siglip", "attention", "blocks.0"),
    ("siglip", "attention", "head"),
]


@dataclass
class World:
    """A network cut at a layer; the embeddings, tokens and codes of two images; their logits."""

    cut: PatchedNetwork
    cells: torch.Tensor
    prefix: torch.Tensor | None
    index: torch.Tensor
    value: torch.Tensor
    logits: torch.Tensor


@pytest.fixture(params=PLACES, ids=lambda place: "-".join(place))
def world(request, tmp_path) -> World:
    kind, pooling, layer = request.param
    vits.write(kind, tmp_path / "model", patch_size=8, image_size=64)
    network = load_encoder(vits.imported(tmp_path / "model", tmp_path / "e", pooling=pooling))
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, HEIGHT, WIDTH, generator=random)
    with torch.no_grad():
        found = network.forward_layers(x, [layer])[layer]
        pooled = network(x)
    cells = found.cells.permute(0, 2, 3, 1).contiguous()
    atoms = torch.nn.functional.normalize(torch.randn(LATENTS, CHANNELS, generator=random))
    bias = cells.mean((0, 1, 2))
    sae = SparseAutoencoder(atoms.clone(), -(atoms @ bias), atoms, bias, k=SLOTS)
    index, value = sae.encoder()(cells.flatten(0, 2).clone())
    shape = (*cells.shape[:3], SLOTS)
    weight = torch.randn(1, CHANNELS, generator=random)
    head = Head(weight.numpy(), np.float32([0.5]), ("mass",))
    cut = PatchedNetwork(network, head, sae, layer, torch.zeros(LATENTS))
    return World(
        cut,
        cells,
        found.prefix,
        index.long().view(shape),
        value.view(shape),
        (pooled @ weight.T + 0.5)[:, 0],
    )


def test_an_edit_that_drops_nothing_leaves_the_logits_of_the_whole_network(world):
    every = torch.ones(LATENTS, dtype=torch.bool)
    found = world.cut.edited_logits(
        world.cells, world.prefix, world.index, world.value, every, "error_preserving"
    )
    torch.testing.assert_close(found[:, 0], world.logits, rtol=1e-5, atol=1e-5)


def test_a_dropped_latent_is_taken_from_the_cells_and_never_from_the_tokens_beside_them(world):
    kept = torch.ones(LATENTS, dtype=torch.bool)
    kept[int(world.index.flatten()[0])] = False
    cut = world.cut
    found = cut.edited_logits(
        world.cells, world.prefix, world.index, world.value, kept, "error_preserving"
    )
    change = torch.zeros_like(world.cells)
    for slot in range(SLOTS):
        index, value = (
            world.index[..., slot],
            world.value[..., slot] * ~kept[world.index[..., slot]],
        )
        change += value[..., None] * cut.sae.decoder_weight[index]
    with torch.no_grad():
        expected = cut.logits(world.cells - change, world.prefix)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found[:, 0] - world.logits).abs().max() > 1e-4


def test_attribution_is_the_change_of_the_logit_for_a_small_step(world):
    cut, step = world.cut, 1e-3
    attributed = cut.attribution(world.cells, world.prefix, world.index, world.value, "mass")
    codes = torch.zeros(*world.index.shape[:3], LATENTS).scatter_add_(3, world.index, world.value)
    part = step * (codes @ cut.sae.decoder_weight)
    with torch.no_grad():
        more, less = (cut.logits(world.cells + sign * part, world.prefix) for sign in (1, -1))
    change = (more - less)[:, 0] / (2 * step)
    scale = float(attributed.abs().sum(1).max())
    torch.testing.assert_close(attributed.sum(1), change, rtol=0.02, atol=0.02 * scale)


def test_integrated_gradients_sum_to_the_difference_of_the_logits(world):
    cut = world.cut
    maps, sums = saliency_maps(
        CutNetwork(cut.network, cut.head, cut.layer, "mass"), world.cells, world.prefix, 64
    )
    assert maps.shape == (2, 2, HEIGHT // 8, WIDTH // 8)
    # A norm turns sharply near a map of zeros, so the integral is not exact there.
    np.testing.assert_allclose(sums[:, 0], sums[:, 1], rtol=0.1, atol=0.1)
