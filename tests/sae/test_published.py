from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from mammo_sae.errors import InputError
from mammo_sae.sae import codes
from mammo_sae.sae.formats import saelens
from mammo_sae.sae.formats.published import read_published
from mammo_sae.sae.model import SparseAutoencoder
from mammo_sae.sae.settings import PublishedVariant, SaeSettings, SaeTraining
from mammo_sae.settings import canonical_json
from mammo_sae.stores.codes import CodesReader
from mammo_sae.stores.publish import read_json
from mammo_sae.stores.tables import read_table
from small_cohort import write_cohort


def write_published(folder, channels=12, latents=20):
    """Write weights in the layout of Mammo-SAE's published file."""
    random = torch.Generator().manual_seed(3)
    atoms = torch.randn(latents, channels, generator=random)
    atoms /= atoms.norm(dim=1, keepdim=True)
    bias = torch.full((1, channels), 2.0)
    state = {
        "tied_bias": bias,
        "pre_encoder_bias._bias_reference": bias,
        "encoder._weight": atoms[None],
        "encoder._bias": torch.zeros(1, latents),
        "decoder._weight": atoms.t()[None].contiguous(),
        "post_decoder_bias._bias_reference": bias,
    }
    path = folder / "sparse_autoencoder_final.pt"
    torch.save(state, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest(), atoms


def published(path, sha256):
    return SaeTraining(variant=PublishedVariant(path=str(path), sha256=sha256))


def test_the_command_line_takes_published_weights_in_place_of_training(cohort, tmp_path):
    path, digest, atoms = write_published(tmp_path)
    folder = tmp_path / "sae"
    done = subprocess.run(
        [
            sys.executable, "-m", "mammo_sae", "train-sae",
            "--settings", canonical_json(published(path, digest)),
            "--layer", cohort.layer, "--splits", cohort.images,
            "--weights", folder / "sae.safetensors", "--description", folder / "sae.json",
            "--history", folder / "history.csv", "--embeddings", *cohort.manifests,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sae = SparseAutoencoder.load(folder / "sae.json")
    assert torch.equal(sae.decoder_weight, atoms)
    log = read_table(folder / "history.csv")
    assert log["step"].tolist() == [0]
    assert log["lr"].tolist() == [0]
    assert 0 < log["l0"][0] < 20


def test_a_folder_is_read_as_saelens(cohort, train_sae, tmp_path):
    path, digest, _ = write_published(tmp_path)
    sae = read_published(PublishedVariant(path=str(path), sha256=digest))
    saelens.write(sae, tmp_path / "saelens")
    content = b"".join((tmp_path / "saelens" / name).read_bytes()
                       for name in (saelens.CONFIG, saelens.WEIGHTS))  # fmt: skip
    digest = hashlib.sha256(content).hexdigest()
    train_sae(cohort, tmp_path / "out", own=published(tmp_path / "saelens", digest))
    found = SparseAutoencoder.load(tmp_path / "out" / "sae.json")
    torch.testing.assert_close(found.encoder_bias, sae.encoder_bias)


def test_other_weights_than_named_are_refused(cohort, train_sae, tmp_path):
    path, digest, _ = write_published(tmp_path)
    with pytest.raises(InputError, match=r"final\.pt \| sha256sum` gives .*, not 0{64}"):
        train_sae(cohort, tmp_path / "out", own=published(path, "0" * 64))
    with pytest.raises(InputError, match=r"nowhere\.pt is missing"):
        train_sae(cohort, tmp_path / "out", own=published(tmp_path / "nowhere.pt", digest))
    assert not (tmp_path / "out").exists()


def test_published_weights_of_another_width_are_refused(cohort, train_sae, tmp_path):
    path, digest, _ = write_published(tmp_path, channels=5)
    with pytest.raises(InputError, match=r"takes 5 channels, but layer head has 12"):
        train_sae(cohort, tmp_path / "out", own=published(path, digest))


def test_published_weights_can_stand_for_one_layer():
    own = {"name": "published", "path": "x.pt", "sha256": "0" * 64}
    settings = SaeSettings(layers={"head": {"variant": own}})
    assert settings.training("head", 0).variant.name == "published"
    assert settings.training("blocks.10", 0).variant.name == "topk"


def test_an_sae_that_was_trained_on_one_encoder_encodes_another(
    cohort, train_sae, settings, tmp_path
):
    trained = train_sae(cohort, tmp_path / "first")
    content = b"".join(
        (tmp_path / "first" / name).read_bytes() for name in ("sae.json", "sae.safetensors")
    )
    other = write_cohort(tmp_path / "other", layer="blocks.3")
    variant = {
        "name": "published",
        "path": (tmp_path / "first").as_posix(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    own = SaeSettings.model_validate({"variant": variant}).training("blocks.3", 0)
    applied = train_sae(other, tmp_path / "applied", own)
    readers = []
    for name, sae in (("a", trained), ("b", applied)):
        codes.run(
            sae=sae, embeddings=other.manifests, image_stores=other.image_stores, layer="blocks.3",
            store=tmp_path / f"{name}.zarr", manifest=tmp_path / f"{name}.json",
        )  # fmt: skip
        readers.append(CodesReader(tmp_path / f"{name}.json"))
    for one, two in zip(*(reader.cells(range(24)) for reader in readers), strict=True):
        assert np.array_equal(one, two)
    assert readers[1].pooled("max").any()
    description = read_json(applied)
    assert description["grid"]["layer"] == "blocks.3"
    assert description["training"]["variant"]["path"] == variant["path"]


def test_an_sae_of_another_encoder_is_applied_with_its_own_weights(tmp_path):
    random = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(20, 12, generator=random))
    own = SparseAutoencoder(atoms.clone(), torch.ones(20), atoms, torch.full((12,), 2.0), k=3)
    own.save(tmp_path / "sae.safetensors", tmp_path / "sae.json")
    content = b"".join((tmp_path / name).read_bytes() for name in ("sae.json", "sae.safetensors"))
    digest = hashlib.sha256(content).hexdigest()
    found = read_published(PublishedVariant(path=str(tmp_path), sha256=digest))
    assert found.k == 3
    for name, tensor in own.tensors().items():
        assert torch.equal(found.tensors()[name], tensor), name
    wrong = PublishedVariant(path=str(tmp_path), sha256="0" * 64)
    with pytest.raises(InputError, match=r"sae\.json .*sae\.safetensors \| sha256sum"):
        read_published(wrong)
