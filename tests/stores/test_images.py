from __future__ import annotations

import numpy as np
import pytest

from mammo_sae.errors import StoreError
from mammo_sae.stores import publish
from mammo_sae.stores.images import ImageReader, ImageRecord, create_image_store

HEIGHT, WIDTH = 24, 16


def _record(rng):
    return ImageRecord(
        pixels=rng.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8),
        breast=rng.random((HEIGHT, WIDTH)) > 0.5,
        regions=rng.random((2, HEIGHT, WIDTH)) > 0.9,
        affine=rng.random((2, 3)),
        flipped=bool(rng.random() > 0.5),
        spacing_mm=float(rng.random()),
    )


def _store(folder, name, ids, rng, order=None):
    records = [_record(rng) for _ in ids]
    with create_image_store(
        folder / f"{name}.zarr",
        folder / f"{name}.json",
        image_ids=ids,
        height=HEIGHT,
        width=WIDTH,
        regions=["mass", "marker"],
    ) as writer:
        for i in order if order is not None else range(len(ids)):
            writer.write(i, records[i])
    return folder / f"{name}.json", records


def test_images_written_in_any_order_come_back_by_id_over_all_shards(tmp_path):
    rng = np.random.default_rng(0)
    first = [f"a{i}" for i in range(37)]
    second = [f"b{i}" for i in range(5)]
    one, r1 = _store(tmp_path, "0", first, rng, order=rng.permutation(37))
    two, r2 = _store(tmp_path, "1", second, rng)
    reader = ImageReader([one, two])
    assert reader.image_ids == first + second
    truth = dict(zip(first + second, r1 + r2, strict=True))
    wanted = ["b3", "a36", "a0", "b0"]
    assert (reader.pixels(wanted) == np.stack([truth[i].pixels for i in wanted])).all()
    assert (reader.breast(wanted) == np.stack([truth[i].breast for i in wanted])).all()
    assert (reader.region_masks(wanted) == np.stack([truth[i].regions for i in wanted])).all()
    assert (reader.affine(wanted) == np.stack([truth[i].affine for i in wanted])).all()
    assert (reader.flipped(wanted) == [truth[i].flipped for i in wanted]).all()
    assert (reader.spacing_mm(wanted) == [truth[i].spacing_mm for i in wanted]).all()
    assert reader.pixels().shape == (42, HEIGHT, WIDTH)
    assert reader.pixels([]).shape == (0, HEIGHT, WIDTH)


def test_an_image_that_was_never_written_keeps_the_store_from_being_published(tmp_path):
    with (
        pytest.raises(ValueError, match="never written"),
        create_image_store(
            tmp_path / "0.zarr",
            tmp_path / "0.json",
            image_ids=["a", "b"],
            height=HEIGHT,
            width=WIDTH,
            regions=["mass", "marker"],
        ) as writer,
    ):
        writer.write(0, _record(np.random.default_rng(0)))
    assert not (tmp_path / "0.zarr").exists()


def test_an_unknown_image_is_named(tmp_path):
    manifest, _ = _store(tmp_path, "0", ["a"], np.random.default_rng(0))
    with pytest.raises(StoreError, match="image zzz is in none"):
        ImageReader([manifest]).pixels(["zzz"])


def test_a_flipped_bit_in_the_pixels_is_found_while_reading(tmp_path, monkeypatch):
    # The file is treated as a large one. Small ones are compared when the store is opened.
    monkeypatch.setattr(publish, "SMALL", 0)
    manifest, _ = _store(tmp_path, "0", [f"a{i}" for i in range(20)], np.random.default_rng(0))
    chunk = tmp_path / "0.zarr" / "pixels" / "c" / "0" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[200] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match=r"0\.zarr/pixels is damaged"):
        ImageReader([manifest]).pixels(["a0", "a1"])


def test_the_advice_about_image_stores_is_followed(tmp_path):
    rng = np.random.default_rng(0)
    one, _ = _store(tmp_path, "0", ["a"], rng)
    with pytest.raises(StoreError, match=r"no image store given; name at least one manifest$"):
        ImageReader([])
    assert ImageReader([one]).image_ids == ["a"]
    with create_image_store(
        tmp_path / "1.zarr",
        tmp_path / "1.json",
        image_ids=["b"],
        height=HEIGHT,
        width=2 * WIDTH,
        regions=[],
    ) as writer:
        wide = ImageRecord(
            pixels=np.zeros((HEIGHT, 2 * WIDTH), np.uint8),
            breast=np.ones((HEIGHT, 2 * WIDTH), bool),
            regions=np.zeros((0, HEIGHT, 2 * WIDTH), bool),
            affine=np.eye(2, 3),
            flipped=False,
            spacing_mm=1.0,
        )
        writer.write(0, wide)
    with pytest.raises(StoreError, match=r"differ in size; convert all shards again$"):
        ImageReader([one, tmp_path / "1.json"])
    two, _ = _store(tmp_path, "1", ["b"], rng)
    assert ImageReader([one, two]).pixels().shape == (2, HEIGHT, WIDTH)
