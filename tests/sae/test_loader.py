from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from mammo_sae.errors import InputError
from mammo_sae.sae.loader import Cells
from mammo_sae.stores.embeddings import EmbeddingReader

CPU = torch.device("cpu")
EVERYTHING = 1 << 30


def as_set(rows: np.ndarray) -> list[bytes]:
    return sorted(row.tobytes() for row in np.ascontiguousarray(rows, dtype=np.float32))


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks per store, so that cells are streamed with a small budget."""
    monkeypatch.setattr("mammo_sae.stores.embeddings.SHARD_BYTES", 1)


@pytest.mark.parametrize("budget", [EVERYTHING, 1], ids=["resident", "mixing buffer"])
def test_every_cell_of_the_split_comes_once_per_epoch(make_cohort, small_blocks, budget):
    cohort = make_cohort()
    reader = EmbeddingReader(cohort.manifests, "head", cohort.splits["training"])
    cells = Cells(reader, budget, CPU)
    assert cells.resident == (budget == EVERYTHING)
    assert cells.count == 18 * 12
    expected = as_set(np.concatenate([cohort.cells[i].reshape(12, -1) for i in reader.image_ids]))
    stream = cells.batches(batch=12, seed=1)
    epochs = [torch.cat(list(islice(stream, 18))).numpy() for _ in range(2)]
    assert as_set(epochs[0]) == expected
    assert as_set(epochs[1]) == expected
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("budget", [EVERYTHING, 1], ids=["resident", "mixing buffer"])
@pytest.mark.parametrize("batch", [7, 50, 500])
def test_a_stream_can_be_taken_up_at_any_batch(make_cohort, small_blocks, budget, batch):
    cohort = make_cohort()
    reader = EmbeddingReader(cohort.manifests, "head", cohort.splits["training"])
    cells = Cells(reader, budget, CPU)
    whole = [b.clone() for b in islice(cells.batches(batch, 1), 12)]
    assert all(len(b) == batch for b in whole)
    for first in (1, 5, 9):
        later = list(islice(cells.batches(batch, 1, first), 12 - first))
        assert all(torch.equal(a, b) for a, b in zip(whole[first:], later, strict=True))


def test_a_batch_mixes_cells_of_several_images(make_cohort, small_blocks):
    cohort = make_cohort()
    reader = EmbeddingReader(cohort.manifests, "head", cohort.splits["training"])
    batch = next(Cells(reader, 1, CPU).batches(batch=12, seed=1)).numpy()
    owner = {
        row.tobytes(): image
        for image, cells in cohort.cells.items()
        for row in np.ascontiguousarray(cells.reshape(12, -1), dtype=np.float32)
    }
    assert len({owner[row.tobytes()] for row in batch}) > 1


def test_the_buffer_the_part_in_use_and_the_next_part_fill_the_budget(make_cohort, small_blocks):
    cohort = make_cohort()
    reader = EmbeddingReader(cohort.manifests, "head")
    cells = Cells(reader, 60 * reader.grid.channels * reader.dtype.itemsize, CPU)
    part = next(cells.parts()).cells
    assert len(part) == 10  # a quarter of 40 cells, and 40 + 10 + 10 = 60


@pytest.mark.parametrize("budget", [EVERYTHING, 1], ids=["resident", "mixing buffer"])
def test_the_seed_decides_the_order(cohort, budget):
    reader = EmbeddingReader(cohort.manifests, "head")
    first = [next(Cells(reader, budget, CPU).batches(20, seed)).numpy() for seed in (1, 1, 2)]
    assert np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[2])


def test_no_training_image_is_refused(cohort):
    reader = EmbeddingReader(cohort.manifests, "head", [])
    with pytest.raises(InputError, match="layer head: the training images have no cell"):
        Cells(reader, EVERYTHING, CPU)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_image(cohort, value):
    reader = EmbeddingReader(cohort.manifests, "head")
    damage(cohort, image=cohort.splits["training"][5], value=value)
    with pytest.raises(InputError, match="infinity in the embedding of image 0000000000000005"):
        Cells(reader, EVERYTHING, CPU)


def damage(cohort, image: str, value: float) -> None:
    """Overwrite one stored value with a value that the writer would refuse."""
    import zarr

    for manifest in cohort.manifests:
        group = zarr.open_group(manifest.with_suffix("") / "head.zarr", mode="r+")
        ids = list(group["image_id"][:])
        if image in ids:
            cells = group["cells"][:]
            cells[ids.index(image), 2, 1, 3] = value
            group["cells"][:] = cells
