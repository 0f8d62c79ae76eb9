from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mammo_sae.encoders import extract
from mammo_sae.encoders.network import load_encoder, save_encoder
from mammo_sae.encoders.settings import ExtractionSettings
from mammo_sae.errors import InputError
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.images import ImageReader
from mammo_sae.stores.publish import verify_store

LAYERS = ["blocks.4", "blocks.10", "head", "pooled"]


def run(encoder: Path, layers, images: Path, path: Path, cached: Path | None = None, **settings):
    manifest = path.with_suffix(".json")
    extract.run(
        ExtractionSettings(**settings),
        encoder=encoder,
        layers=layers,
        image_store=images,
        base_embeddings=cached,
        store=path,
        manifest=manifest,
    )
    return manifest


@pytest.fixture
def finetuned(lite0, tmp_path) -> Path:
    """An encoder with other weights after blocks.4, as after fine-tuning."""
    network = load_encoder(lite0)
    generator = torch.Generator().manual_seed(0)
    for block in network.blocks[5:]:
        for parameter in block.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    save_encoder(
        network.state_dict(),
        network.description.model_copy(update={"kind": "finetuned", "cached": "blocks.4"}),
        tmp_path / "finetuned" / "encoder.safetensors",
        tmp_path / "finetuned" / "encoder.json",
    )
    return tmp_path / "finetuned"


def test_a_store_holds_every_layers_maps_as_float16_in_the_images_order(
    lite0, image_store, tmp_path
):
    images, _ = image_store(count=19)
    manifest = run(lite0, LAYERS, images, tmp_path / "0")
    network, source = load_encoder(lite0), ImageReader([images])
    assert verify_store(manifest) == []
    with torch.inference_mode():
        x = network.normalise(torch.from_numpy(source.pixels()))
        expected = network.forward_layers(x, LAYERS)
    for layer in LAYERS:
        reader = EmbeddingReader([manifest], layer)
        assert reader.image_ids == source.image_ids
        assert reader.dtype == np.float16
        assert reader.grid == network.grid(layer, source.height, source.width)
        wanted = expected[layer].cells.permute(0, 2, 3, 1).numpy()
        found = reader.read(range(len(reader))).astype(np.float32)
        assert np.abs(found - wanted).max() < 2e-3 * np.abs(wanted).max()


def test_starting_from_the_frozen_layers_store_gives_the_same_bytes_as_from_the_pixels(
    lite0, finetuned, image_store, tmp_path
):
    images, _ = image_store(count=19)
    base = run(lite0, ["blocks.4"], images, tmp_path / "base")
    from_images = run(finetuned, LAYERS[1:], images, tmp_path / "a")
    from_store = run(finetuned, LAYERS[1:], images, tmp_path / "b", cached=base)
    digests = [json.loads(m.read_text())["digest"] for m in (from_images, from_store)]
    assert digests[0] == digests[1]


def test_the_same_run_gives_the_same_manifest(lite0, image_store, tmp_path):
    images, _ = image_store(count=5)
    first = run(lite0, ["head"], images, tmp_path / "0").read_bytes()
    assert run(lite0, ["head"], images, tmp_path / "0").read_bytes() == first


def test_a_map_beyond_float16_is_stored_as_float32(lite0, image_store, tmp_path):
    network = load_encoder(lite0)
    network.blocks[10].project.weight.mul_(1e5)
    directory = tmp_path / "large"
    save_encoder(
        network.state_dict(),
        network.description,
        directory / "encoder.safetensors",
        directory / "encoder.json",
    )
    images, _ = image_store(count=4)
    manifest = run(directory, ["blocks.4", "blocks.10"], images, tmp_path / "0")
    assert EmbeddingReader([manifest], "blocks.4").dtype == np.float16
    wide = EmbeddingReader([manifest], "blocks.10")
    assert wide.dtype == np.float32
    assert 65504 < np.abs(wide.read([0])).max() < np.inf


def test_bfloat16_is_close_to_float32(lite0, image_store, tmp_path):
    images, _ = image_store(count=3)
    manifests = [
        run(lite0, ["head"], images, tmp_path / precision, precision=precision)
        for precision in ("float32", "bfloat16")
    ]
    exact, rough = (EmbeddingReader([m], "head").read(range(3)).astype(float) for m in manifests)
    assert 0 < np.abs(rough - exact).mean() < 0.1 * np.abs(exact).mean()


def test_a_layer_the_encoder_does_not_have_is_refused_and_nothing_is_written(
    lite0, image_store, tmp_path
):
    images, _ = image_store(count=2)
    with pytest.raises(InputError, match=r"no layer 'blocks\.16'"):
        run(lite0, ["blocks.16"], images, tmp_path / "0")
    assert not (tmp_path / "0").exists()


def test_a_layer_before_the_frozen_one_is_refused_with_what_to_do(
    lite0, finetuned, image_store, tmp_path
):
    images, _ = image_store(count=2)
    base = run(lite0, ["blocks.4"], images, tmp_path / "base")
    with pytest.raises(InputError, match=r"blocks\.3 lies before blocks\.4, the last frozen"):
        run(finetuned, ["blocks.3", "head"], images, tmp_path / "0", cached=base)


def test_the_bases_embeddings_of_other_images_are_refused(lite0, finetuned, image_store, tmp_path):
    base = run(lite0, ["blocks.4"], image_store("1", count=2)[0], tmp_path / "base")
    images, _ = image_store("2", count=2)
    with pytest.raises(InputError, match="not of the same images"):
        run(finetuned, ["head"], images, tmp_path / "0", cached=base)


def test_embeddings_for_an_encoder_without_a_frozen_part_are_refused(lite0, image_store, tmp_path):
    images, _ = image_store(count=2)
    base = run(lite0, ["blocks.4"], images, tmp_path / "base")
    with pytest.raises(InputError, match="has no frozen part"):
        run(lite0, ["head"], images, tmp_path / "0", cached=base)


def test_the_advice_about_a_bases_embeddings_is_followed(lite0, finetuned, image_store, tmp_path):
    images, _ = image_store("2", count=2)
    base = run(lite0, ["blocks.3", "blocks.4"], images, tmp_path / "base")
    other = run(lite0, ["blocks.4"], image_store("1", count=2)[0], tmp_path / "other")

    def refused(said: str, *arguments, **given) -> None:
        with pytest.raises(InputError, match=said):
            run(*arguments, tmp_path / "0", **given)

    refused("no frozen part; leave them out", lite0, ["head"], images, cached=base)
    head = run(lite0, ["head"], images, tmp_path / "0")
    assert EmbeddingReader([head], "head").image_ids == ImageReader([images]).image_ids
    layers = ["blocks.3", "head"]
    refused("leave the base encoder's embeddings out, or", finetuned, layers, images, cached=base)
    whole = run(finetuned, layers, images, tmp_path / "whole")
    # Or "take that layer from the base encoder, which shares it".
    shared, own = (EmbeddingReader([m], "blocks.3").read([0, 1]) for m in (base, whole))
    np.testing.assert_array_equal(shared, own)
    refused("extract the base encoder again", finetuned, ["head"], images, cached=other)
    again = run(lite0, ["blocks.4"], images, tmp_path / "other")
    found = run(finetuned, ["head"], images, tmp_path / "0", cached=again)
    expected = EmbeddingReader([whole], "head").read([0, 1])
    np.testing.assert_array_equal(EmbeddingReader([found], "head").read([0, 1]), expected)


def test_every_layer_that_the_message_names_can_be_chosen(lite0, image_store, tmp_path):
    images, _ = image_store(count=2)
    with pytest.raises(InputError) as refused:
        run(lite0, ["blocks.16"], images, tmp_path / "0")
    named = re.search(r"; choose (\S+) to (\S+), (\S+) or (\S+)$", str(refused.value)).groups()
    manifest = run(lite0, named, images, tmp_path / "0")
    assert [EmbeddingReader([manifest], layer).grid.layer for layer in named] == list(named)


PEAK = """
import resource, sys
from pathlib import Path
from mammo_sae.encoders import extract
from mammo_sae.encoders.settings import ExtractionSettings
encoder, images, path = map(Path, sys.argv[1:])
extract.run(
    ExtractionSettings(), encoder=encoder, layers=["blocks.0"], image_store=images,
    store=path, manifest=path.with_suffix(".json"),
)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_images(lite0, image_store, tmp_path):
    peaks, sizes = [], []
    for name, count in (("1", 150), ("2", 600)):
        images, _ = image_store(name, count=count, height=128, width=128)
        out = tmp_path / f"out{name}"
        command = [sys.executable, "-c", PEAK, lite0, images, out]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) * 1024)
        sizes.append(json.loads(out.with_suffix(".json").read_text())["bytes"])
    assert sizes[1] - sizes[0] > 50e6
    assert peaks[1] - peaks[0] < 20e6


def test_a_gpu_too_small_for_a_pass_gives_the_same_maps_in_parts(
    lite0, image_store, tmp_path, monkeypatch
):
    images, _ = image_store(count=5)
    whole = run(lite0, ["head", "pooled"], images, tmp_path / "0")
    forward, sizes = type(load_encoder(lite0)).forward_layers, []

    def limited(self, x, *arguments):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x, *arguments)

    monkeypatch.setattr(type(load_encoder(lite0)), "forward_layers", limited)
    parts = run(lite0, ["head", "pooled"], images, tmp_path / "1")
    assert max(sizes) > 2
    for layer in ("head", "pooled"):
        one, other = (EmbeddingReader([m], layer) for m in (whole, parts))
        assert one.image_ids == other.image_ids
        wanted, found = (r.read(range(5)).astype(np.float32) for r in (one, other))
        assert np.abs(found - wanted).max() <= 1e-3 * np.abs(wanted).max()
