from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from mammo_sae.errors import InputError
from mammo_sae.sae.loader import Cells
from mammo_sae.sae.training_cells import _thin, breast_cells, kept_cells
from mammo_sae.sae.variants.base import geometric_median
from mammo_sae.stores.embeddings import EmbeddingReader
from mammo_sae.stores.images import ImageReader


def test_a_cell_is_the_breasts_when_the_mask_covers_some_of_it(cohort):
    ids = sorted(cohort.cells)
    reader = EmbeddingReader(cohort.manifests, "head")
    inside = breast_cells(ImageReader(cohort.image_stores), ids, reader.grid).reshape(
        len(ids), 4, 3
    )
    assert inside[0::2].all()
    assert inside[1::2, :, 0].all()
    assert not inside[1::2, :, 1:].any()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_all_of_the_breast_and_a_share_of_the_rest_is_kept(cohort, share, monkeypatch):
    reader = EmbeddingReader(cohort.manifests, "head")
    inside = breast_cells(ImageReader(cohort.image_stores), reader.image_ids, reader.grid)
    kept = kept_cells(reader, cohort.image_stores, share, None)
    assert kept[inside].all()
    assert kept[~inside].mean() == pytest.approx(share, abs=0.2)
    monkeypatch.setattr("mammo_sae.sae.training_cells.DRAWN", 1)
    assert np.array_equal(kept, kept_cells(reader, cohort.image_stores, share, None))


def test_a_background_share_needs_the_masks(cohort):
    reader = EmbeddingReader(cohort.manifests, "head")
    assert kept_cells(reader, [], 1.0, None) is None
    with pytest.raises(InputError, match=r"background = 0\.5 needs the image stores"):
        kept_cells(reader, [], 0.5, None)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_at_most_so_many_cells_of_an_image_are_kept_and_only_kept_ones(cohort, share, monkeypatch):
    reader = EmbeddingReader(cohort.manifests, "head")
    whole = kept_cells(reader, cohort.image_stores, share, 12)
    kept = kept_cells(reader, cohort.image_stores, share, 5)
    assert np.array_equal(kept.sum(axis=1), np.minimum(whole.sum(axis=1), 5))
    assert (whole | ~kept).all()
    assert len({row.tobytes() for row in kept}) > 2
    monkeypatch.setattr("mammo_sae.sae.training_cells.DRAWN", 1)
    assert np.array_equal(kept, kept_cells(reader, cohort.image_stores, share, 5))


def test_so_many_cells_of_a_large_image_are_kept_exactly():
    kept = np.ones((3, 5000), dtype=bool)
    kept[1, 60:] = False
    _thin(kept, 100, np.random.default_rng(0))
    assert kept.sum(axis=1).tolist() == [100, 60, 100]


@pytest.mark.parametrize("budget", [1 << 30, 1], ids=["resident", "mixing buffer"])
def test_training_sees_the_kept_cells_once_per_epoch(cohort, monkeypatch, budget):
    monkeypatch.setattr("mammo_sae.stores.embeddings.SHARD_BYTES", 1)
    reader = EmbeddingReader(cohort.manifests, "head", cohort.splits["training"])
    kept = np.random.default_rng(0).random((18, 12)) < 0.5
    cells = Cells(reader, budget, torch.device("cpu"), kept)
    stored = np.stack([cohort.cells[i].reshape(12, -1) for i in reader.image_ids])
    expected = sorted(row.tobytes() for row in stored[kept].astype(np.float32))
    for epoch in islice(cells.batches(int(kept.sum()), seed=1), 2):
        assert sorted(row.tobytes() for row in epoch.numpy()) == expected


def test_the_geometric_median_resists_an_outlier():
    cells = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1000.0, 1000.0]])
    median = geometric_median(cells)
    # At the median the unit vectors towards the cells sum to 0. By symmetry it is (t, t), with
    # 1 + sqrt(2) (1 - 2t) / sqrt(1 - 2t + 2t^2) = 0, so t = 1/2 + sqrt(3) / 6.
    torch.testing.assert_close(median, torch.full((2,), 0.5 + 3**0.5 / 6), atol=1e-2, rtol=0)
    assert cells.mean(dim=0).max() > 200
    torch.testing.assert_close(geometric_median(cells / 100), median / 100)


def test_the_geometric_median_may_be_a_cell():
    cells = torch.tensor([[0.25, 0.5]]).repeat(3, 1)
    assert torch.equal(geometric_median(cells), cells[0])
