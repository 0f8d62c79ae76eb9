"""After damage in any file of a store, readers give the written data or a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mammo_sae.errors import StoreError
from mammo_sae.grids import LayerGrid
from mammo_sae.stores import publish
from mammo_sae.stores.codes import POOLED, CodesReader, create_codes_store
from mammo_sae.stores.embeddings import EmbeddingReader, create_embedding_store
from mammo_sae.stores.images import ImageReader, ImageRecord, create_image_store

GRID = LayerGrid("blocks.1", 6, 4, 3, 8, -2.0, -1.0, 19)
IDS = [f"{i:016x}" for i in range(5)]
K, LATENTS = 3, 20


@dataclass(frozen=True)
class Kind:
    """A kind of store: a function that writes one, and all data that its reader gives."""

    write: Callable[[Path], None]
    read: Callable[[Path], dict[str, Any]]


def _write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    with create_image_store(
        folder / "s", folder / "s.json", image_ids=IDS, height=12, width=8, regions=["mass"]
    ) as writer:
        for position in range(len(IDS)):
            writer.write(
                position,
                ImageRecord(
                    pixels=rng.integers(0, 256, (12, 8), dtype=np.uint8),
                    breast=rng.integers(0, 2, (12, 8), dtype=np.uint8),
                    regions=rng.integers(0, 2, (1, 12, 8), dtype=np.uint8),
                    affine=rng.standard_normal((2, 3)),
                    flipped=bool(position % 2),
                    spacing_mm=0.07,
                    facts={"manufacturer": f"maker {position % 2}"},
                ),
            )


def _read_images(manifest: Path) -> dict[str, Any]:
    reader = ImageReader([manifest])
    return {
        "ids": reader.image_ids,
        "pixels": reader.pixels().tolist(),
        "breast": reader.breast().tolist(),
        "regions": reader.region_masks().tolist(),
        "affine": reader.affine().tolist(),
        "flipped": reader.flipped().tolist(),
        "spacing": reader.spacing_mm().tolist(),
        "facts": reader.facts(reader.image_ids).to_dict("list"),
    }


def _write_embeddings(folder: Path) -> None:
    rng = np.random.default_rng(1)
    cells = rng.standard_normal((len(IDS), GRID.rows, GRID.columns, GRID.channels))
    with create_embedding_store(
        folder / "s", folder / "s.json", image_ids=IDS, grids=[GRID]
    ) as writer:
        writer.write({GRID.layer: cells})


def _read_embeddings(manifest: Path) -> dict[str, Any]:
    reader = EmbeddingReader([manifest], GRID.layer)
    return {
        "ids": reader.image_ids,
        "grid": reader.grid,
        "single": reader.read(range(len(reader))).tolist(),
        "blocks": [cells.tolist() for _, cells in reader.batches(2)],
    }


def _write_codes(k: int | None) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        rng = np.random.default_rng(2)
        shape = (len(IDS), GRID.rows, GRID.columns, K)
        index = np.sort(rng.integers(0, LATENTS, shape), axis=-1)
        value = rng.random(shape, dtype=np.float32)
        pooled = {name: rng.random((len(IDS), LATENTS), dtype=np.float32) for name in POOLED}
        with create_codes_store(
            folder / "s", folder / "s.json", image_ids=IDS, grid=GRID, latents=LATENTS, k=k
        ) as writer:
            writer.write(range(len(IDS)), index, value, pooled)

    return write


def _read_codes(manifest: Path) -> dict[str, Any]:
    reader = CodesReader(manifest)
    cells = reader.cells(range(len(reader)))
    return {
        "ids": reader.image_ids,
        "grid": reader.grid,
        "k": reader.k,
        "latents": reader.latents,
        "cells": [part.tolist() for part in cells],
        "pooled": {name: reader.pooled(name).tolist() for name in POOLED},
        "maps": reader.maps([0, 3], [1, 7]).tolist(),
    }


KINDS = {
    "images": Kind(_write_images, _read_images),
    "embeddings": Kind(_write_embeddings, _read_embeddings),
    "codes": Kind(_write_codes(K), _read_codes),
    "ragged codes": Kind(_write_codes(None), _read_codes),
}


def _damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Return `content` with one to three bits flipped, an end cut off, or a part overwritten."""
    how = rng.integers(4)
    changed = bytearray(content)
    if how == 0 and len(changed) > 1:
        return bytes(changed[: rng.integers(len(changed))])
    if how == 1 and changed:
        start = int(rng.integers(len(changed)))
        changed[start : start + 8] = rng.bytes(min(8, len(changed) - start))
        return bytes(changed)
    for _ in range(int(rng.integers(1, 4))):
        if changed:
            changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cases(kind: Kind, folder: Path, count: int, seed: int) -> None:
    kind.write(folder)
    manifest = folder / "s.json"
    truth = kind.read(manifest)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    rng = np.random.default_rng(seed)
    found = 0
    for number in range(count):
        # Every file is damaged in turn, so that none is left out by chance.
        path = files[number % len(files)]
        whole = path.read_bytes()
        path.write_bytes(_damage(whole, rng))
        try:
            assert kind.read(manifest) == truth, path
        except StoreError as error:
            found += 1
            assert str(folder) in str(error)
        finally:
            path.write_bytes(whole)
    assert found > count / 2
    assert kind.read(manifest) == truth


@pytest.mark.parametrize("small", [0, publish.SMALL], ids=["chunks checked alone", "files too"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_in_any_file_is_named_or_changes_nothing(tmp_path, monkeypatch, kind, small):
    # With 0 no file is compared when the store is opened, as for large files, whose chunks have
    # checksums. The metadata, which are always small, are then not damaged.
    monkeypatch.setattr(publish, "SMALL", small)
    if small:
        _cases(KINDS[kind], tmp_path, 120, seed=0)
    else:
        _chunks(KINDS[kind], tmp_path, 60, seed=1)


def _chunks(kind: Kind, folder: Path, count: int, seed: int) -> None:
    kind.write(folder)
    truth = kind.read(folder / "s.json")
    files = sorted(p for p in (folder / "s").rglob("c/**/*") if p.is_file())
    rng = np.random.default_rng(seed)
    for number in range(count):
        path = files[number % len(files)]
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            assert kind.read(folder / "s.json") == truth, path
        except StoreError as error:
            assert str(folder) in str(error)
        finally:
            path.write_bytes(whole)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_thousands_of_kinds_is_named_or_changes_nothing(tmp_path, kind):
    _cases(KINDS[kind], tmp_path, 2500, seed=2)
