from __future__ import annotations

import io

import numpy as np
import pytest

from mammo_sae.analysis import mean_codes
from mammo_sae.errors import InputError
from mammo_sae.stores import codes


@pytest.fixture(params=[64, 5])
def written(tmp_path, request, monkeypatch):
    monkeypatch.setattr(mean_codes, "TURNED", request.param)
    means = np.random.default_rng(0).random((90, 12)).astype(np.float32)
    blocks = [means[:40], means[40:64], means[64:]]
    return means, mean_codes.MeanCodes.write(blocks, 90, tmp_path)


@pytest.mark.parametrize("size", [16 << 20, 90 * 4 * 5])
def test_sums_over_latents_are_those_of_the_array(written, size, monkeypatch):
    monkeypatch.setattr(mean_codes, "BLOCK_BYTES", size)
    means, copy = written
    matrix = np.random.default_rng(1).normal(size=(12, 3))
    rows = np.array([70, 3, 3, 41])
    np.testing.assert_allclose(copy.times(matrix), means.astype(np.float64) @ matrix)
    np.testing.assert_allclose(copy.at(rows).times(matrix), means[rows].astype(float) @ matrix)
    np.testing.assert_array_equal(np.concatenate([v for _, v in copy.blocks()]), means.T)


def test_latents_come_in_the_given_order_and_images_may_come_twice(written):
    means, copy = written
    rows = np.array([70, 3, 3, 41])
    np.testing.assert_array_equal(copy.at(rows).of(np.array([7, 0])), means[rows][:, [7, 0]].T)
    again = copy.at(rows).at(np.array([3, 0]))
    np.testing.assert_array_equal(again.of(np.array([5])), means[[41, 70], 5][None])
    assert copy.at(rows).of(np.empty(0, np.int64)).shape == (0, 4)


def test_the_mean_codes_of_a_store_are_copied_for_the_given_images(world, tmp_path, monkeypatch):
    monkeypatch.setattr(codes, "BLOCK_BYTES", 1)
    reader = codes.CodesReader(world.codes)
    ids = reader.image_ids[300:100:-1]
    copy = mean_codes.MeanCodes.of_images(reader, ids, tmp_path)
    np.testing.assert_array_equal(copy.of(np.arange(reader.latents)).T, reader.pooled("mean", ids))
    assert list(tmp_path.iterdir()) == []


def test_no_image_has_no_contribution(world, tmp_path):
    copy = mean_codes.MeanCodes.of_images(codes.CodesReader(world.codes), [], tmp_path)
    assert copy.times(np.ones((copy.latents, 2))).shape == (0, 2)
    assert copy.of(np.array([1, 2])).shape == (2, 0)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    class Full:
        def seek(self, _place): ...

        def write(self, _values):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(mean_codes.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(InputError, match=r"no room for a temporary file of .* GiB \(No space left"):
        mean_codes.MeanCodes.write([np.ones((3, 2), np.float32)], 3, tmp_path)


def test_a_file_that_takes_a_part_of_the_bytes_gets_the_rest(tmp_path, monkeypatch):
    class InParts(io.FileIO):
        def write(self, some):
            return super().write(some[:5])

    path = tmp_path / "codes"
    monkeypatch.setattr(mean_codes.tempfile, "TemporaryFile", lambda **_: InParts(path, "w+"))
    means = np.arange(6, dtype=np.float32).reshape(3, 2)
    copy = mean_codes.MeanCodes.write([means], 3, tmp_path)
    np.testing.assert_array_equal(copy.of(np.arange(2)), means.T)
