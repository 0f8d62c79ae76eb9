"""Extraction, fine-tuning and geometry of encoders that are no EfficientNets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import vits
from mammo_sae.encoders import extract, linear_probe
from mammo_sae.encoders.architectures import find_layer
from mammo_sae.encoders.heads import load_head
from mammo_sae.encoders.network import load_encoder, save_encoder
from mammo_sae.encoders.settings import (
    ExtractionSettings,
    LinearProbeSettings,
    ResNetSource,
)
from mammo_sae.encoders.sources import resnet
from mammo_sae.grids import touched_cells
from mammo_sae.phantom.image import render
from mammo_sae.phantom.plan import plan_patient, switched
from mammo_sae.phantom.settings import PhantomSettings
from mammo_sae.sae.high_norm import all_norms, norm_limit
from mammo_sae.statistics import auroc
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.publish import verify_store
from mammo_sae.stores.tables import write_table
from tuning import head_of_zeros, tune

POOLINGS = {
    "dinov2_with_registers": "cls",
    "dinov3_vit": "mean",
    "siglip": "attention",
    "resnet-18": "mean",
}
PREFIXES = {"dinov2_with_registers": 5, "dinov3_vit": 5, "siglip": 0, "resnet-18": 0}
LAYERS = ["blocks.0", "blocks.1", "head", "pooled"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, Path]:
    """Name -> directory of an encoder."""
    root, found = tmp_path_factory.mktemp("encoders"), {}
    for kind, pooling in POOLINGS.items():
        if kind == "resnet-18":
            found[kind] = random_resnet(root / kind)
            continue
        vits.write(kind, root / "models" / kind, patch_size=8, image_size=64)
        found[kind] = vits.imported(root / "models" / kind, root / kind, pooling=pooling)
    return found


def random_resnet(directory: Path) -> Path:
    """Write a ResNet-18 of random weights with the names of torchvision, and import it."""
    torch.manual_seed(0)
    state = {}
    for convolution, norm, shape in resnet._folds("resnet-18").values():
        state[f"{convolution}.weight"] = torch.randn(shape) * (2 / np.prod(shape[1:])) ** 0.5
        for part, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            state[f"{norm}.{part}"] = torch.full(shape[:1], float(value))
    directory.mkdir(parents=True)
    torch.save(state, directory / "x.pth")
    source = ResNetSource(
        kind="resnet", architecture="resnet-18", path=(directory / "x.pth").as_posix()
    )
    weights, described = resnet.read(source)
    save_encoder(weights, described, directory / "encoder.safetensors", directory / "encoder.json")
    return directory


def embed(encoder: Path, layers, images: Path, path: Path, cached: Path | None = None) -> Path:
    extract.run(
        ExtractionSettings(),
        encoder=encoder,
        layers=layers,
        image_store=images,
        base_embeddings=cached,
        store=path,
        manifest=path.with_suffix(".json"),
    )
    return path.with_suffix(".json")


@pytest.mark.parametrize("name", POOLINGS)
def test_a_store_holds_the_cells_and_exactly_the_tokens_beside_them(
    name, encoders, image_store, tmp_path
):
    images, _ = image_store(count=19)
    manifest = embed(encoders[name], LAYERS, images, tmp_path / "0")
    assert verify_store(manifest) == []
    network, source = load_encoder(encoders[name]), ImageReader([images])
    with torch.inference_mode():
        expected = network.forward_layers(
            network.normalise(torch.from_numpy(source.pixels())), LAYERS
        )
    for layer in LAYERS:
        reader = EmbeddingReader([manifest], layer)
        wanted = expected[layer].cells.permute(0, 2, 3, 1).numpy()
        found = reader.read(range(19)).astype(np.float32)
        assert np.abs(found - wanted).max() < 2e-3 * np.abs(wanted).max()
        assert reader.prefix_tokens == (0 if layer == "pooled" else PREFIXES[name])
        if reader.prefix_tokens:
            np.testing.assert_allclose(
                reader.prefix(range(19)), expected[layer].prefix.numpy(), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("name", POOLINGS)
def test_starting_from_the_frozen_layers_store_gives_the_same_bytes_as_from_the_pixels(
    name, encoders, image_store, tmp_path
):
    images, _ = image_store(count=19)
    base = load_encoder(encoders[name])
    cached = base.description.model_copy(update={"kind": "finetuned", "cached": "blocks.0"})
    for number, value in enumerate(base.parameters()):
        if number > 40:
            value.mul_(1.1)
    save_encoder(
        load_encoder(encoders[name]).state_dict(),
        cached,
        tmp_path / "tuned" / "encoder.safetensors",
        tmp_path / "tuned" / "encoder.json",
    )
    store = embed(encoders[name], ["blocks.0"], images, tmp_path / "base")
    from_images = embed(tmp_path / "tuned", LAYERS[1:], images, tmp_path / "a")
    from_store = embed(tmp_path / "tuned", LAYERS[1:], images, tmp_path / "b", cached=store)
    digests = [json.loads(m.read_text())["digest"] for m in (from_images, from_store)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("freeze", [None, "blocks.0"])
def test_fine_tuning_learns_a_planted_blob_and_leaves_frozen_weights_as_they_are(
    name, freeze, encoders, image_store, tmp_path
):
    shards = [image_store(number, count=24) for number in ("0", "1")]
    cohort = tmp_path / "images.parquet"
    write_table(pd.concat([table for _, table in shards], ignore_index=True), cohort)
    stores = [manifest for manifest, _ in shards]
    if freeze is not None:
        stores = [
            embed(encoders[name], [freeze], images, tmp_path / "base" / images.stem)
            for images in stores
        ]
    recipe = {"epochs": 8, "lr": 1e-3, "head_lr": 1e-2}
    channels = find_layer(load_encoder(encoders[name]).architecture, "pooled").channels
    head = head_of_zeros(tmp_path / "base_head", channels)
    tuned = tune(tmp_path / "tuned", encoders[name], cohort, stores, freeze, head, **recipe)
    log = pd.read_csv(tuned / "log.csv")
    assert log["auroc_mass"][0] == 0.5
    assert log["auroc_mass"].iloc[-1] > 0.9
    before, after = (load_file(d / "encoder.safetensors") for d in (encoders[name], tuned))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    first = [key for key in before if ".0." in key and ("layer" in key or "blocks" in key)]
    early = {key for key in first if key.split(".0.")[0] in {
        "model.encoder.layer", "model.encoder.layers", "model.model.layer", "blocks"}}  # fmt: skip
    assert early
    assert bool(early & changed) == (freeze is None)
    again = tune(tmp_path / "again", encoders[name], cohort, stores, freeze, head, **recipe)
    for file in ("encoder.safetensors", "head.safetensors", "log.csv"):
        assert (tuned / file).read_bytes() == (again / file).read_bytes(), file


@pytest.mark.parametrize("name", POOLINGS)
def test_a_linear_probe_reads_the_features_of_the_declared_pooling(
    name, encoders, image_store, tmp_path
):
    images, table = image_store(count=40)
    write_table(table, tmp_path / "images.parquet")
    manifest = embed(encoders[name], ["pooled"], images, tmp_path / "0")
    linear_probe.run(
        LinearProbeSettings(c=1.0),
        concepts=["mass"],
        images=tmp_path / "images.parquet",
        encoder=encoders[name],
        embeddings=[manifest],
        head_weights=tmp_path / "head.safetensors",
        head_description=tmp_path / "head.json",
    )
    features = EmbeddingReader([manifest], "pooled").read(range(40))[:, 0, 0]
    logits = load_head(tmp_path).logits(features)[:, 0]
    assert auroc(logits, table["mass"].to_numpy(float)) > 0.9


@pytest.mark.parametrize("name", ["dinov2_with_registers", "dinov3_vit", "siglip", "resnet-18"])
@pytest.mark.parametrize("layer", ["blocks.0", "blocks.1"])
def test_the_response_to_a_lesion_that_is_switched_on_lies_on_its_cells(name, layer, encoders):
    network = load_encoder(encoders[name])
    part = PhantomSettings(height=128, width=96).part("pairs")
    peaks, inside, outside = [], [], []
    for number in range(12):
        patient = plan_patient(part, number)
        other = switched(part, patient, "mass")
        on, off = (patient, other) if patient.has("mass") else (other, patient)
        images = [render(part, one, on.mass.side, "MLO") for one in (on, off)]
        pixels = np.stack([np.round(image.display.clip(0, 1) * 255) for image in images])
        with torch.inference_mode():
            x = network.normalise(torch.from_numpy(pixels.astype(np.uint8)))
            maps = network.forward_layers(x, [layer])[layer].cells
        response = (maps[0] - maps[1]).norm(dim=0).numpy()
        lesion = touched_cells(images[0].regions["mass"][None], network.grid(layer, 128, 96))[0]
        assert lesion.any()
        peaks.append(lesion[np.unravel_index(response.argmax(), response.shape)])
        inside.append(response[lesion].mean())
        outside.append(response[~lesion].mean())
    # A mass covers a few per cent of the cells. By attention a faint one may change a dark cell
    # more.
    assert np.mean(peaks) > 0.9
    assert np.mean(inside) > 2 * np.mean(outside)


def test_tokens_planted_in_a_vision_transformer_are_found_in_every_image(image_store, tmp_path):
    model = vits.model_of("dinov2", patch_size=8, image_size=64)
    # The position of one patch makes its token long in every block.
    model.embeddings.position_embeddings.data[0, 1 + 9] += 60.0
    model.save_pretrained(tmp_path / "model")
    encoder = vits.imported(tmp_path / "model", tmp_path / "encoder")
    images, _ = image_store(count=5)
    manifest = embed(encoder, ["blocks.0", "blocks.1"], images, tmp_path / "0")
    for layer in ("blocks.0", "blocks.1"):
        reader = EmbeddingReader([manifest], layer)
        found = all_norms(reader)
        long = found > norm_limit(found, 3.0, layer)
        assert long.any(axis=1).all()
        assert long.mean() < 0.1
        assert len({row.tobytes() for row in long}) == 1
