"""Embeddings that are dropped, and made again when a step reads them."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammo_sae.again import drop_embeddings, make_again
from mammo_sae.cli import run_step
from mammo_sae.errors import DroppedError, StoreError
from mammo_sae.provenance import record_path
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.publish import read_json, verify_store
from mammo_sae.stores.tables import write_table


@pytest.fixture
def stored(lite0, image_store, tmp_path, monkeypatch) -> Path:
    """Manifest of a shard's embeddings, in the layout of a run's results."""
    monkeypatch.chdir(tmp_path)
    images, table = image_store("0", count=6)
    write_table(table, tmp_path / "splits.parquet")
    shutil.copytree(lite0, tmp_path / "encoders" / "base")
    manifest = Path("embeddings/base/head+pooled/0.json")
    words = ["--settings", "{}", "--encoder", "encoders/base", "--layers", "head", "pooled"]
    words += ["--image-store", str(images.relative_to(tmp_path)), "--manifest", str(manifest)]
    run_step("extract", [*words, "--store", str(manifest.with_suffix(""))])
    return manifest


def files(manifest: Path) -> dict[str, bytes]:
    folder = manifest.with_suffix("")
    paths = [manifest, *(path for path in sorted(folder.rglob("*")) if path.is_file())]
    return {str(path): path.read_bytes() for path in paths}


def test_dropped_maps_are_gone_the_pooled_features_stay_and_the_store_counts_as_whole(stored):
    pooled = EmbeddingReader([stored], "pooled").read([0, 5])
    before = stored.read_bytes()
    drop_embeddings(Path("embeddings"))
    drop_embeddings(Path("embeddings"))
    assert not (stored.with_suffix("") / "head.zarr").exists()
    assert stored.read_bytes() == before
    assert verify_store(stored) == []
    np.testing.assert_array_equal(EmbeddingReader([stored], "pooled").read([0, 5]), pooled)
    with pytest.raises(DroppedError, match=r"0\.json: layer head was dropped to save room"):
        EmbeddingReader([stored], "head")
    (stored.with_suffix("") / "pooled.zarr" / "zarr.json").unlink()
    assert "zarr.json is missing" in verify_store(stored)[0]


def test_a_step_that_reads_dropped_maps_makes_them_again_with_the_same_bytes(stored):
    before = files(stored)
    drop_embeddings(Path("embeddings"))
    training = '{"variant": {"name": "topk", "k": 4}, "latents": 16, "steps": 2, "batch": 8}'
    words = ["--settings", training, "--layer", "head", "--splits", "splits.parquet"]
    words += ["--embeddings", str(stored), "--weights", "sae/sae.safetensors"]
    run_step("train_sae", [*words, "--description", "sae/sae.json", "--history", "sae/history.csv"])
    assert files(stored) == before
    assert len(pd.read_csv("sae/history.csv")) > 0
    (record,) = Path("sae").glob("*.provenance.json")
    assert str(stored) in read_json(record)["inputs"]


def test_of_steps_that_need_a_shard_at_once_one_makes_it(stored):
    drop_embeddings(Path("embeddings"))
    made = []

    def counted(step, words):
        made.append(step)
        run_step(step, words)

    steps = [threading.Thread(target=make_again, args=([stored], counted)) for _ in range(3)]
    for step in steps:
        step.start()
    for step in steps:
        step.join()
    assert made == ["extract"]
    assert verify_store(stored) == []


def test_other_bytes_are_reported(stored, capsys):
    drop_embeddings(Path("embeddings"))

    def in_bfloat16(step, words):
        run_step(step, [*words, "--settings", '{"precision": "bfloat16"}'])

    make_again([stored], in_bfloat16)
    assert "made again they have other bytes (another kind of machine" in capsys.readouterr().err


def test_without_its_record_a_dropped_shard_is_refused(stored):
    drop_embeddings(Path("embeddings"))
    record_path(stored).unlink()
    with pytest.raises(StoreError, match=r"provenance\.json is missing, so .* can't be made again"):
        make_again([stored], run_step)
