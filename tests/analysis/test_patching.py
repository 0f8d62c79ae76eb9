from __future__ import annotations

import efficientnet_pytorch
import numpy as np
import pandas as pd
import pytest
import torch

from copied import copied
from mammo_sae.analysis import cases as case
from mammo_sae.analysis import inner
from mammo_sae.analysis.cases import Identity
from mammo_sae.analysis.edits import first
from mammo_sae.analysis.interventions import Edits
from mammo_sae.analysis.patching import PatchedNetwork
from mammo_sae.analysis.settings import InnerSettings
from mammo_sae.encoders import import_encoder
from mammo_sae.encoders.heads import Head, save_head
from mammo_sae.encoders.network import load_encoder
from mammo_sae.encoders.settings import MammoClipSource, PretrainedSettings
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.stores.codes import create_codes_store
from mammo_sae.stores.embeddings import create_embedding_store
from mammo_sae.stores.tables import read_table, write_table

SPLICES = ("spliced", "error_preserving")
HEIGHT, WIDTH, LATENTS, SLOTS = 96, 64, 300, 6


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lite0")
    import_encoder.run(
        PretrainedSettings(),
        weights=directory / "encoder.safetensors",
        description=directory / "encoder.json",
    )
    return directory, load_encoder(directory).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def mammo_clip(tmp_path_factory):
    """An EfficientNet-B2 with random weights, read from a checkpoint in Mammo-CLIP's format."""
    directory = tmp_path_factory.mktemp("b2")
    torch.manual_seed(0)
    model = efficientnet_pytorch.EfficientNet.from_name("efficientnet-b2", num_classes=1)
    state = {f"image_encoder.{key}": value for key, value in model.state_dict().items()}
    names = {"model": {"image_encoder": {"name": "tf_efficientnetv2-detect"}}}
    torch.save({"model": state, "config": names}, directory / "b2.tar")
    source = MammoClipSource(
        kind="mammo_clip", architecture="efficientnet-b2", path=str(directory / "b2.tar")
    )
    import_encoder.run(
        PretrainedSettings(source=source),
        weights=directory / "encoder.safetensors",
        description=directory / "encoder.json",
    )
    return directory, load_encoder(directory).eval().requires_grad_(False)


def cut_at(network, layer, images=6, seed=0):
    """An SAE of random atoms at `layer`, and codes that it gives random images."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, HEIGHT, WIDTH), generator=generator).to(torch.uint8)
    x = network.normalise(pixels)
    with torch.inference_mode():
        cells = network.forward_layers(x, [layer])[layer].cells.permute(0, 2, 3, 1).contiguous()
    d = cells.shape[-1]
    atoms = torch.nn.functional.normalize(torch.randn(LATENTS, d, generator=generator), dim=1)
    bias = cells.mean((0, 1, 2))
    sae = SparseAutoencoder(atoms.clone(), -(atoms @ bias), atoms, bias, k=SLOTS)
    index, value = sae.encoder()(cells.flatten(0, 2).clone())
    shape = (*cells.shape[:3], SLOTS)
    width = network.grid("head", HEIGHT, WIDTH).channels
    # The weights have the size of a trained head's, so that logits are some units and an absolute
    # error is meaningful.
    head = Head(
        torch.randn(2, width, generator=generator).div(width**0.5).numpy(),
        np.array([0.1, -0.4], np.float32),
        ("mass", "suspicious_calcification"),
    )
    typical = torch.zeros(LATENTS).scatter_add_(0, index.flatten(), value.flatten()) / len(index)
    cut = PatchedNetwork(network, head, sae, layer, typical)
    return cut, x, cells.clone(), index.view(shape).clone(), value.view(shape).clone()


def dense(index, value):
    return torch.zeros(*index.shape[:3], LATENTS).scatter_add_(3, index, value)


@pytest.mark.parametrize("architecture", ["network", "mammo_clip"])
@pytest.mark.parametrize("layer", ["blocks.10", "head"])
@pytest.mark.parametrize("splice", ["spliced", "error_preserving", "mean_ablated"])
def test_editing_equals_a_hook_that_edits_the_codes_inside_the_whole_network(
    request, architecture, layer, splice
):
    """Scores for every k, on and off, and at the head also from the algebra without a network."""
    whole = request.getfixturevalue(architecture)[1]
    cut, x, cells, index, value = cut_at(whole, layer, images=2)
    codes = dense(index, value)
    atoms, bias = cut.sae.decoder_weight, cut.sae.decoder_bias
    weight, offset = torch.from_numpy(cut.head.weight), torch.from_numpy(cut.head.bias)
    order = np.random.default_rng(1).permutation(LATENTS)
    on = first(order, [0, 1, 5, 50, LATENTS])
    kept = np.concatenate([on, ~on], axis=1)

    def edit(before, stays):
        after = (codes * stays) @ atoms + bias
        if splice != "spliced":
            after = after + before - (codes @ atoms + bias)
        if splice == "mean_ablated":
            after = after + (cut.typical * ~stays) @ atoms
        return after

    with torch.inference_mode():
        original = whole(x) @ weight.T + offset
    algebra = None
    if layer == "head":
        effects = (atoms @ weight[0]).double().numpy()
        data = Edits(
            means=copied(codes.mean((1, 2)).double().numpy()),
            weights=effects,
            offset=float(offset[0] + weight[0] @ bias),
            original=original[:, 0].double().numpy(),
            labels=np.ones(2, bool),
            patients=np.arange(2),
            typical=cut.typical.double().numpy() * effects,
        )
        algebra = data.logits(kept, splice)
    largest = 0.0
    for e in range(kept.shape[1]):
        stays = torch.from_numpy(kept[:, e].copy())
        with torch.inference_mode():
            if layer == "head":
                cells_now = whole.forward_layers(x, ["head"])["head"].cells.permute(0, 2, 3, 1)
                pooled = edit(cells_now, stays).mean((1, 2))
            else:
                handle = whole.blocks[10].register_forward_hook(
                    lambda _module, _inputs, output, stays=stays: edit(
                        output.permute(0, 2, 3, 1), stays
                    ).permute(0, 3, 1, 2)
                )
                pooled = whole(x)
                handle.remove()
        expected = pooled @ weight.T + offset
        found = cut.edited_logits(cells, None, index, value, stays, splice)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        if algebra is not None:
            np.testing.assert_allclose(algebra[:, e], expected[:, 0], rtol=0, atol=1e-4)
        largest = max(largest, float(expected.abs().max()))
    assert largest > 0.1


def test_at_the_head_attribution_is_ablation(network):
    cut, _, cells, index, value = cut_at(network[1], "head")
    found = cut.attribution(cells, None, index, value, "mass")
    weight = torch.from_numpy(cut.head.weight[0])
    means = dense(index, value).mean((1, 2))
    np.testing.assert_allclose(found, means * (cut.sae.decoder_weight @ weight), atol=1e-4)


def test_at_an_inner_layer_attribution_follows_small_changes_of_the_codes(network):
    cut, _, cells, index, value = cut_at(network[1], "blocks.10")
    attributed = cut.attribution(cells, None, index, value, "mass").sum(1)
    step = 1e-2
    part = (dense(index, value) @ cut.sae.decoder_weight) * step
    with torch.inference_mode():
        change = (cut.logits(cells + part, None) - cut.logits(cells - part, None))[:, 0] / (
            2 * step
        )
    np.testing.assert_allclose(attributed, change, rtol=0.1, atol=0.1 * float(change.abs().max()))


def test_whole_patients_are_taken_up_to_the_limit():
    patients = np.array(["a", "a", "b", "b", "b", "c"])
    known = np.array([0, 1, 2, 3, 4, 5])
    assert case.whole_patients(patients, known, 4).tolist() == [0, 1]
    assert case.whole_patients(patients, known, 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("layer", ["blocks.10", "head"])
def test_a_planted_latent_has_the_largest_effect_by_attribution_and_by_ablation(
    network, layer, tmp_path
):
    """Latent 7 is added to the embeddings of positive images, in the direction of the logit."""
    directory, whole = network
    cut, _, cells, index, value = cut_at(whole, layer, images=24)
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2 == 1
    start = cells.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cut.logits(start, None)[:, 0].sum(), start)
    direction = torch.nn.functional.normalize(slope.mean((0, 1, 2)), dim=0)
    atoms = cut.sae.decoder_weight.clone()
    atoms[7] = direction
    strength = torch.zeros(cells.shape[:3])
    strength[torch.from_numpy(labels)] = 0.3 * cells.flatten(0, 2).norm(dim=1).mean()
    # The last slot becomes that of the planted latent in every cell where it fires.
    value, index = value * 0.05, torch.where(index == 7, 8, index)
    index[..., -1], value[..., -1] = 7, strength
    cells = cells + strength[..., None] * direction
    sae = SparseAutoencoder(
        cut.sae.encoder_weight, cut.sae.encoder_bias, atoms, cut.sae.decoder_bias, k=SLOTS
    )
    sae.save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    save_head(cut.head, tmp_path / "head.safetensors", tmp_path / "head.json")
    ids = [f"{i:016x}" for i in range(24)]
    table = pd.DataFrame(
        {
            "image_id": ids,
            "patient_id": [f"{i:016x}" for i in rng.permutation(24)],
            "split": "test",
            "mass": labels.astype(int),
        }
    )
    write_table(table, tmp_path / "images.parquet")
    grid = whole.grid(layer, HEIGHT, WIDTH)
    with create_embedding_store(
        tmp_path / "0", tmp_path / "0.json", image_ids=ids, grids=[grid]
    ) as writer:
        writer.write({layer: cells.detach().numpy()})
    codes = dense(index, value).detach().flatten(1, 2)
    with create_codes_store(
        tmp_path / "codes.zarr",
        tmp_path / "codes.json",
        image_ids=ids,
        grid=grid,
        latents=LATENTS,
        k=SLOTS,
    ) as writer:
        pooled = {
            "mean": codes.mean(1).numpy(),
            "max": codes.amax(1).numpy(),
            "active": (codes > 0).float().mean(1).numpy(),
        }
        everywhere = {f"{name}_breast": values for name, values in pooled.items()}
        writer.write(range(24), index.numpy(), value.numpy(), pooled | everywhere)
    run_inner(directory, layer, tmp_path)
    found = read_table(tmp_path / "attribution.parquet").set_index("latent")
    assert found["rank_attribution"].idxmin() == 7
    assert found["ablation"].abs().idxmax() == 7
    assert found["ablation"].notna().sum() == 5
    # The first-order estimate is exact if the rest of the network is linear, and approximate
    # elsewhere.
    assert found["agreement"].iloc[0] > (0.99 if layer == "head" else 0.7)
    check_top_k(tmp_path)
    if layer == "head":
        top = found.loc[7]
        assert top["ablation"] == pytest.approx(top["attribution"], rel=0.01)


def run_inner(encoder, layer, root):
    latents = pd.DataFrame({"latent": np.arange(LATENTS), "concept": "mass"})
    latents["firing_rate"] = 0.1
    latents["rank_auroc"] = np.where(latents["latent"] == 7, 1, latents["latent"] + 10)
    latents["rank_class_mean"] = latents["rank_auroc"]
    latents["mean_positive"] = latents["mean_negative"] = -latents["rank_auroc"] * 1.0
    latents["mean_difference"] = -latents["rank_auroc"] * 1.0
    write_table(latents, root / "latents.parquet")
    inner.run(
        InnerSettings(
            bootstrap_draws=50,
            splices=SPLICES,
            top_k=(0, 1),
            random_sets=1,
            batch_size=24,
            ablated=5,
            images=24,
        ),
        identity=Identity("pretrained", layer, "topk", 0),
        images=root / "images.parquet",
        encoder=encoder,
        head=root,
        embeddings=[root / "0.json"],
        sae=root / "sae.json",
        codes=root / "codes.json",
        latents=root / "latents.parquet",
        concepts=["mass"],
        interventions=root / "inner.parquet",
        attribution=root / "attribution.parquet",
    )


def check_top_k(root):
    """Keeping the planted latent alone keeps the separation; dropping it loses the most."""
    table = read_table(root / "inner.parquet")
    ranked = table[(table["selection"] == "ranked") & (table["ranking"] == "auroc")]
    scores = ranked.set_index(["mode", "splice", "k"])["auroc"]
    assert scores["on", "spliced", 0] == 0.5
    assert scores["on", "spliced", 1] > 0.9
    whole = scores["off", "error_preserving", 0]
    assert whole > 0.9
    assert scores["on", "error_preserving", LATENTS] == whole
    assert scores["off", "error_preserving", 1] < whole - 0.2
